#include "textflag.h"

// See reaper_amd64.s. S2 scratch, S3 the arguments, S4 the command's pid, S5 its status, S6 whether it has ended.
TEXT ·program(SB),NOSPLIT|NOFRAME,$0-0
	MOV	X2, S3
	ADD	$-512, X2, S2
	MOV	ZERO, S6
	MOV	$-1, A0
	MOV	A0, 0(S2)
	MOV	$2, A0 // rt_sigprocmask
	MOV	S2, A1
	ADD	$16, S2, A2
	MOV	$8, A3
	MOV	$135, A7
	ECALL
	MOV	$36, A0 // prctl
	MOV	$1, A1
	MOV	$167, A7
	ECALL
	MOV	$17, A0 // clone
	MOV	ZERO, A1
	MOV	ZERO, A2
	MOV	ZERO, A3
	MOV	ZERO, A4
	MOV	$220, A7
	ECALL
	BEQ	A0, ZERO, child
	BLT	A0, ZERO, failed
	MOV	A0, S4
wait:
	MOV	S2, A0 // rt_sigtimedwait
	ADD	$64, S2, A1
	MOV	ZERO, A2
	MOV	$8, A3
	MOV	$137, A7
	ECALL
	MOV	$17, T0
	BEQ	A0, T0, reap
	BGE	ZERO, A0, wait
	MOV	A0, A1 // kill
	MOV	S4, A0
	MOV	$129, A7
	ECALL
	JMP	wait
reap:
	MOV	$-1, A0 // wait4
	ADD	$32, S2, A1
	MOV	$1, A2
	MOV	ZERO, A3
	MOV	$260, A7
	ECALL
	BGE	ZERO, A0, reaped
	BNE	A0, S4, reap
	MOVWU	32(S2), S5
	MOV	$1, S6
	JMP	reap
reaped:
	BEQ	S6, ZERO, wait
	AND	$127, S5, A0
	BEQ	A0, ZERO, exited
	ADD	$128, A0, A0
	JMP	exit
exited:
	SRL	$8, S5, A0
	AND	$255, A0, A0
exit:
	MOV	$94, A7 // exit_group
	ECALL
	JMP	exit
child:
	MOV	ZERO, A0 // setpgid
	MOV	ZERO, A1
	MOV	$154, A7
	ECALL
	MOV	$172, A7 // getpid
	ECALL
	MOVW	A0, 40(S2)
	MOV	ZERO, A0 // ioctl
	MOV	$0x5410, A1
	ADD	$40, S2, A2
	MOV	$29, A7
	ECALL
	MOV	$2, A0 // rt_sigprocmask
	ADD	$16, S2, A1
	MOV	ZERO, A2
	MOV	$8, A3
	MOV	$135, A7
	ECALL
	MOV	0(S3), T0 // execve
	MOV	24(S3), A0
	ADD	$32, S3, A1
	SLL	$3, T0, T0
	ADD	T0, S3, A2
	ADD	$16, A2, A2
	MOV	$221, A7
	ECALL
failed:
	MOV	$127, S5
	MOV	$-2, T0
	BEQ	A0, T0, say
	MOV	$126, S5
say:
	MOV	$2, A0 // write
	MOV	$0x10080, A1
	MOV	$37, A2
	MOV	$64, A7
	ECALL
	MOV	S5, A0
	JMP	exit

TEXT ·end(SB),NOSPLIT|NOFRAME,$0-0
	RET

DATA ·programStart(SB)/8, $·program(SB)
GLOBL ·programStart(SB), NOPTR, $8
DATA ·programEnd(SB)/8, $·end(SB)
GLOBL ·programEnd(SB), NOPTR, $8
