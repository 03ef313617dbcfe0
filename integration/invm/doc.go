// Package invm holds tests that run inside a virtual machine: the boot suite compiles them, copies them in over SSH and
// runs them as root there. On any other machine they have no meaning, hence the build tag.
package invm
