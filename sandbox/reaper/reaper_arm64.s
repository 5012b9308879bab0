#include "textflag.h"

// See reaper_amd64.s. R19 scratch, R20 the arguments, R21 the command's pid, R22 its status, R23 whether it has ended.
TEXT ·program(SB),NOSPLIT|NOFRAME,$0-0
	MOVD	RSP, R20
	SUB	$512, R20, R19
	MOVD	$0, R23
	MOVD	$-1, R0
	MOVD	R0, 0(R19)
	MOVD	$2, R0 // rt_sigprocmask
	MOVD	R19, R1
	ADD	$16, R19, R2
	MOVD	$8, R3
	MOVD	$135, R8
	SVC
	MOVD	$36, R0 // prctl
	MOVD	$1, R1
	MOVD	$167, R8
	SVC
	MOVD	$17, R0 // clone
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$220, R8
	SVC
	CMP	$0, R0
	BEQ	child
	BLT	failed
	MOVD	R0, R21
wait:
	MOVD	R19, R0 // rt_sigtimedwait
	ADD	$64, R19, R1
	MOVD	$0, R2
	MOVD	$8, R3
	MOVD	$137, R8
	SVC
	CMP	$17, R0
	BEQ	reap
	CMP	$0, R0
	BLE	wait
	MOVD	R0, R1 // kill
	MOVD	R21, R0
	MOVD	$129, R8
	SVC
	B	wait
reap:
	MOVD	$-1, R0 // wait4
	ADD	$32, R19, R1
	MOVD	$1, R2
	MOVD	$0, R3
	MOVD	$260, R8
	SVC
	CMP	$0, R0
	BLE	reaped
	CMP	R21, R0
	BNE	reap
	MOVWU	32(R19), R22
	MOVD	$1, R23
	B	reap
reaped:
	CBZ	R23, wait
	AND	$127, R22, R0
	CBZ	R0, exited
	ADD	$128, R0
	B	exit
exited:
	LSR	$8, R22, R0
	AND	$255, R0
exit:
	MOVD	$94, R8 // exit_group
	SVC
	B	exit
child:
	MOVD	$0, R0 // setpgid
	MOVD	$0, R1
	MOVD	$154, R8
	SVC
	MOVD	$172, R8 // getpid
	SVC
	MOVW	R0, 40(R19)
	MOVD	$0, R0 // ioctl
	MOVD	$0x5410, R1
	ADD	$40, R19, R2
	MOVD	$29, R8
	SVC
	MOVD	$2, R0 // rt_sigprocmask
	ADD	$16, R19, R1
	MOVD	$0, R2
	MOVD	$8, R3
	MOVD	$135, R8
	SVC
	MOVD	0(R20), R3 // execve
	MOVD	24(R20), R0
	ADD	$32, R20, R1
	ADD	R3<<3, R20, R2
	ADD	$16, R2
	MOVD	$221, R8
	SVC
failed:
	MOVD	$127, R22
	CMN	$2, R0
	BEQ	say
	MOVD	$126, R22
say:
	MOVD	$2, R0 // write
	MOVD	$0x10000, R1
	ADD	$0x80, R1
	MOVD	$37, R2
	MOVD	$64, R8
	SVC
	MOVD	R22, R0
	B	exit

TEXT ·end(SB),NOSPLIT|NOFRAME,$0-0
	RET

DATA ·programStart(SB)/8, $·program(SB)
GLOBL ·programStart(SB), NOPTR, $8
DATA ·programEnd(SB)/8, $·end(SB)
GLOBL ·programEnd(SB), NOPTR, $8
