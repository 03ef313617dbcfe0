package keys

import (
	"log/slog"

	"golang.org/x/sys/unix"
)

// harden makes it harder to read keys out of this process: no core dumps, no reading by other processes of
// the same user, and no swap where the limits allow it. Each step may fail, and then says so. Root of the
// machine reads the memory all the same, and Go may have copied a key before it was cleared.
func harden(logger *slog.Logger) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		logger.Warn("process stays readable by others of its user", "error", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		logger.Warn("core dumps stay possible", "error", err)
	}
	// With a limit, locking future pages would make the Go runtime fail when it grows, so it is all or nothing.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil || limit.Cur != unix.RLIM_INFINITY {
		logger.Warn("memory is not locked and may reach swap; set LimitMEMLOCK=infinity", "error", err)
		return
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE); err != nil {
		logger.Warn("memory is not locked and may reach swap", "error", err)
	}
}
