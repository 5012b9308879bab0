package seccomp

const (
	inDefault = 1            // how many architectures Docker's default profile is for
	ofArch    = "cacheflush" // calls that only this architecture has, and that profile allows
)
