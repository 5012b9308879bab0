//go:build mips || mipsle

#include "textflag.h"

// func rawClone(trap, a1, a2, a3 uintptr) (r1, errno uintptr)
TEXT ·rawClone(SB),NOSPLIT|NOFRAME,$0-24
	MOVW	a1+4(FP), R4
	MOVW	a2+8(FP), R5
	MOVW	a3+12(FP), R6
	MOVW	trap+0(FP), R2
	SYSCALL
	BEQ	R7, ok
	MOVW	$-1, R1
	MOVW	R1, r1+16(FP)
	MOVW	R2, errno+20(FP)
	RET
ok:
	MOVW	R2, r1+16(FP)
	MOVW	R0, errno+20(FP)
	RET
