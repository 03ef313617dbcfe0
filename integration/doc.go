// Package integration tests whole systems: the real programs, started as a user starts them, with whole virtual
// machines under emulation. Build tag "boot"; run by make boot.
package integration
