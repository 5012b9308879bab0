#include "textflag.h"

// func rawClone(trap, a1, a2, a3 uintptr) (r1, errno uintptr)
TEXT ·rawClone(SB),NOSPLIT|NOFRAME,$0-48
	MOV	a1+8(FP), A0
	MOV	a2+16(FP), A1
	MOV	a3+24(FP), A2
	MOV	ZERO, A3
	MOV	ZERO, A4
	MOV	ZERO, A5
	MOV	trap+0(FP), A7
	ECALL
	MOV	$-4096, T0
	BLTU	T0, A0, err
	MOV	A0, r1+32(FP)
	MOV	ZERO, errno+40(FP)
	RET
err:
	MOV	$-1, T0
	MOV	T0, r1+32(FP)
	SUB	A0, ZERO, A0
	MOV	A0, errno+40(FP)
	RET
