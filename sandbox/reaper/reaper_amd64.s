#include "textflag.h"

// The registers that hold over all: BX scratch below the stack (no handler will ever use it), R15 the arguments,
// R12 the command's pid, R13 its status, R14 whether it has ended.
// In scratch: 0 all signals, 16 the signals that were blocked, 32 a status, 40 a pid, 64 a siginfo.
TEXT ·program(SB),NOSPLIT|NOFRAME,$0-0
	LEAQ	-512(SP), BX
	MOVQ	SP, R15
	XORL	R14, R14
	MOVQ	$-1, AX
	MOVQ	AX, 0(BX)
	MOVL	$2, DI // rt_sigprocmask(SIG_SETMASK, all, old, 8)
	MOVQ	BX, SI
	LEAQ	16(BX), DX
	MOVL	$8, R10
	MOVL	$14, AX
	SYSCALL
	MOVL	$36, DI // prctl(PR_SET_CHILD_SUBREAPER, 1): with the host's pid namespace it is no process 1
	MOVL	$1, SI
	MOVL	$157, AX
	SYSCALL
	MOVL	$17, DI // clone(SIGCHLD)
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVL	$56, AX
	SYSCALL
	TESTQ	AX, AX
	JEQ	child
	JLT	failed
	MOVQ	AX, R12
wait:
	MOVQ	BX, DI // rt_sigtimedwait(all, info, NULL, 8)
	LEAQ	64(BX), SI
	XORL	DX, DX
	MOVL	$8, R10
	MOVL	$128, AX
	SYSCALL
	CMPQ	AX, $17
	JEQ	reap
	TESTQ	AX, AX
	JLE	wait
	MOVQ	R12, DI // kill(command, signal)
	MOVQ	AX, SI
	MOVL	$62, AX
	SYSCALL
	JMP	wait
reap:
	MOVQ	$-1, DI // wait4(-1, status, WNOHANG, NULL)
	LEAQ	32(BX), SI
	MOVL	$1, DX
	XORL	R10, R10
	MOVL	$61, AX
	SYSCALL
	TESTQ	AX, AX
	JLE	reaped
	CMPQ	AX, R12
	JNE	reap
	MOVL	32(BX), R13
	MOVL	$1, R14
	JMP	reap
reaped:
	TESTL	R14, R14
	JEQ	wait
	MOVL	R13, DI
	ANDL	$127, DI
	JEQ	exited
	ADDL	$128, DI
	JMP	exit
exited:
	MOVL	R13, DI
	SHRL	$8, DI
	ANDL	$255, DI
exit:
	MOVL	$231, AX // exit_group
	SYSCALL
	JMP	exit
child:
	XORL	DI, DI // setpgid(0, 0)
	XORL	SI, SI
	MOVL	$109, AX
	SYSCALL
	MOVL	$39, AX // getpid
	SYSCALL
	MOVL	AX, 40(BX)
	XORL	DI, DI // ioctl(0, TIOCSPGRP, &pid): the terminal, if there is one, is the command's
	MOVL	$0x5410, SI
	LEAQ	40(BX), DX
	MOVL	$16, AX
	SYSCALL
	MOVL	$2, DI // rt_sigprocmask(SIG_SETMASK, old, NULL, 8)
	LEAQ	16(BX), SI
	XORL	DX, DX
	MOVL	$8, R10
	MOVL	$14, AX
	SYSCALL
	MOVQ	0(R15), AX // execve(argv[2], argv+3, envp)
	MOVQ	24(R15), DI
	LEAQ	32(R15), SI
	LEAQ	16(R15)(AX*8), DX
	MOVL	$59, AX
	SYSCALL
failed:
	MOVL	$127, R13
	CMPQ	AX, $-2 // ENOENT
	JEQ	say
	MOVL	$126, R13
say:
	MOVL	$2, DI // write(2, said, 37)
	MOVL	$0x10080, SI
	MOVL	$37, DX
	MOVL	$1, AX
	SYSCALL
	MOVL	R13, DI
	JMP	exit

TEXT ·end(SB),NOSPLIT|NOFRAME,$0-0
	RET

DATA ·programStart(SB)/8, $·program(SB)
GLOBL ·programStart(SB), NOPTR, $8
DATA ·programEnd(SB)/8, $·end(SB)
GLOBL ·programEnd(SB), NOPTR, $8
