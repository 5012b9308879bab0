package seccomp

const (
	inDefault = 2                                                                                     // how many architectures Docker's default profile is for
	ofArch    = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls" // calls that only this architecture has, and that profile allows
)
