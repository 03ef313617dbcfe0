package vtpm

import "runtime"

func newStarter() *processStarter {
	s := &processStarter{requests: make(chan startRequest)}
	go func() {
		runtime.LockOSThread() // never unlocked: this thread lives as long as the program
		for r := range s.requests {
			r.result <- r.cmd.Start()
		}
	}()
	return s
}
