#include "textflag.h"

// See reaper_amd64.s. R4 scratch, R5 the arguments, R6 the command's pid, R8 its status, R9 whether it has ended.
TEXT ·program(SB),NOSPLIT|NOFRAME,$0-0
	MOVW	R13, R5
	SUB	$512, R5, R4
	MOVW	$0, R9
	MOVW	$-1, R0
	MOVW	R0, 0(R4)
	MOVW	R0, 4(R4)
	MOVW	$2, R0 // rt_sigprocmask
	MOVW	R4, R1
	ADD	$16, R4, R2
	MOVW	$8, R3
	MOVW	$175, R7
	SWI	$0
	MOVW	$36, R0 // prctl
	MOVW	$1, R1
	MOVW	$172, R7
	SWI	$0
	MOVW	$17, R0 // clone
	MOVW	$0, R1
	MOVW	$0, R2
	MOVW	$0, R3
	MOVW	$120, R7
	SWI	$0
	CMP	$0, R0
	BEQ	child
	BLT	failed
	MOVW	R0, R6
wait:
	MOVW	R4, R0 // rt_sigtimedwait
	ADD	$64, R4, R1
	MOVW	$0, R2
	MOVW	$8, R3
	MOVW	$177, R7
	SWI	$0
	CMP	$17, R0
	BEQ	reap
	CMP	$0, R0
	BLE	wait
	MOVW	R0, R1 // kill
	MOVW	R6, R0
	MOVW	$37, R7
	SWI	$0
	B	wait
reap:
	MOVW	$-1, R0 // wait4
	ADD	$32, R4, R1
	MOVW	$1, R2
	MOVW	$0, R3
	MOVW	$114, R7
	SWI	$0
	CMP	$0, R0
	BLE	reaped
	CMP	R6, R0
	BNE	reap
	MOVW	32(R4), R8
	MOVW	$1, R9
	B	reap
reaped:
	CMP	$0, R9
	BEQ	wait
	AND	$127, R8, R0
	CMP	$0, R0
	BEQ	exited
	ADD	$128, R0
	B	exit
exited:
	SRL	$8, R8, R0
	AND	$255, R0
exit:
	MOVW	$248, R7 // exit_group
	SWI	$0
	B	exit
child:
	MOVW	$0, R0 // setpgid
	MOVW	$0, R1
	MOVW	$57, R7
	SWI	$0
	MOVW	$20, R7 // getpid
	SWI	$0
	MOVW	R0, 40(R4)
	MOVW	$0, R0 // ioctl(0, 0x5410)
	MOVW	$0x5400, R1
	ADD	$0x10, R1
	ADD	$40, R4, R2
	MOVW	$54, R7
	SWI	$0
	MOVW	$2, R0 // rt_sigprocmask
	ADD	$16, R4, R1
	MOVW	$0, R2
	MOVW	$8, R3
	MOVW	$175, R7
	SWI	$0
	MOVW	0(R5), R3 // execve
	MOVW	12(R5), R0
	ADD	$16, R5, R1
	ADD	R3<<2, R5, R2
	ADD	$8, R2
	MOVW	$11, R7
	SWI	$0
failed:
	MOVW	$127, R8
	CMN	$2, R0
	BEQ	say
	MOVW	$126, R8
say:
	MOVW	$2, R0 // write
	MOVW	$0x10000, R1
	ADD	$0x80, R1
	MOVW	$37, R2
	MOVW	$4, R7
	SWI	$0
	MOVW	R8, R0
	B	exit

TEXT ·end(SB),NOSPLIT|NOFRAME,$0-0
	RET

DATA ·programStart(SB)/4, $·program(SB)
GLOBL ·programStart(SB), NOPTR, $4
DATA ·programEnd(SB)/4, $·end(SB)
GLOBL ·programEnd(SB), NOPTR, $4
