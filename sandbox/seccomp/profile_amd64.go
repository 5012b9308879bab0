package seccomp

const (
	inDefault = 3                       // how many architectures Docker's default profile is for
	ofArch    = "arch_prctl modify_ldt" // calls that only this architecture has, and that profile allows
)
