#include "textflag.h"

// See reaper_amd64.s. R16 scratch, R17 the arguments, R18 the command's pid, R19 its status, R20 whether it has
// ended. Signals have other numbers here, sets of them 16 bytes, and R7 tells of an error, whose number is in R2.
TEXT ·program(SB),NOSPLIT|NOFRAME,$0-0
	MOVW	R29, R17
	ADDU	$-512, R29, R16
	MOVW	R0, R20
	MOVW	$-1, R4
	MOVW	R4, 0(R16)
	MOVW	R4, 4(R16)
	MOVW	R4, 8(R16)
	MOVW	R4, 12(R16)
	MOVW	$3, R4 // rt_sigprocmask(SIG_SETMASK, all, old, 16)
	MOVW	R16, R5
	ADDU	$16, R16, R6
	MOVW	$16, R7
	MOVW	$4195, R2
	SYSCALL
	MOVW	$36, R4 // prctl
	MOVW	$1, R5
	MOVW	$4192, R2
	SYSCALL
	MOVW	$18, R4 // clone(SIGCHLD)
	MOVW	R0, R5
	MOVW	R0, R6
	MOVW	R0, R7
	MOVW	$4120, R2
	SYSCALL
	BNE	R7, failed
	BEQ	R2, child
	MOVW	R2, R18
wait:
	MOVW	R16, R4 // rt_sigtimedwait
	ADDU	$64, R16, R5
	MOVW	R0, R6
	MOVW	$16, R7
	MOVW	$4197, R2
	SYSCALL
	BNE	R7, wait
	MOVW	$18, R8
	BEQ	R2, R8, reap
	MOVW	R2, R5 // kill
	MOVW	R18, R4
	MOVW	$4037, R2
	SYSCALL
	JMP	wait
reap:
	MOVW	$-1, R4 // wait4
	ADDU	$32, R16, R5
	MOVW	$1, R6
	MOVW	R0, R7
	MOVW	$4114, R2
	SYSCALL
	BNE	R7, reaped
	BEQ	R2, reaped
	BNE	R2, R18, reap
	MOVW	32(R16), R19
	MOVW	$1, R20
	JMP	reap
reaped:
	BEQ	R20, wait
	AND	$127, R19, R4
	BEQ	R4, exited
	ADDU	$128, R4
	JMP	exit
exited:
	SRL	$8, R19, R4
	AND	$255, R4
exit:
	MOVW	$4246, R2 // exit_group
	SYSCALL
	JMP	exit
child:
	MOVW	R0, R4 // setpgid
	MOVW	R0, R5
	MOVW	$4057, R2
	SYSCALL
	MOVW	$4020, R2 // getpid
	SYSCALL
	MOVW	R2, 40(R16)
	MOVW	R0, R4 // ioctl(0, TIOCSPGRP, &pid)
	MOVW	$0x80047476, R5
	ADDU	$40, R16, R6
	MOVW	$4054, R2
	SYSCALL
	MOVW	$3, R4 // rt_sigprocmask
	ADDU	$16, R16, R5
	MOVW	R0, R6
	MOVW	$16, R7
	MOVW	$4195, R2
	SYSCALL
	MOVW	0(R17), R8 // execve
	MOVW	12(R17), R4
	ADDU	$16, R17, R5
	SLL	$2, R8
	ADDU	R8, R17, R6
	ADDU	$8, R6
	MOVW	$4011, R2
	SYSCALL
failed:
	MOVW	$127, R19
	MOVW	$2, R8
	BEQ	R2, R8, say
	MOVW	$126, R19
say:
	MOVW	$2, R4 // write
	MOVW	$0x10080, R5
	MOVW	$37, R6
	MOVW	$4004, R2
	SYSCALL
	MOVW	R19, R4
	JMP	exit

TEXT ·end(SB),NOSPLIT|NOFRAME,$0-0
	RET

DATA ·programStart(SB)/4, $·program(SB)
GLOBL ·programStart(SB), NOPTR, $4
DATA ·programEnd(SB)/4, $·end(SB)
GLOBL ·programEnd(SB), NOPTR, $4
