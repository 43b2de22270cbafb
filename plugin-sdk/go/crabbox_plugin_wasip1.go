//go:build wasip1

// What a provider in Go needs besides crabbox_plugin.go to be WebAssembly; without that, delete it. Built by Go 1.21 or
// newer with GOOS=wasip1 GOARCH=wasm, the program is the file of a `runtime = "wasi-stdio"` artifact. A read there holds
// up every goroutine, so it begins only when there is something to read.
package main

import (
	"encoding/json"
	"os"
	"runtime"
	"unsafe"
)

// subscription is wasi_snapshot_preview1's: to a file when kind is 1, to a clock when it is 0.
type subscription struct {
	userdata uint64
	kind     uint8
	_        [7]byte
	id       uint32 // of the file or the clock; 1 is monotonic
	timeout  uint64 // in nanoseconds
	_        [16]byte
}

//go:wasmimport wasi_snapshot_preview1 poll_oneoff
//go:noescape
func pollOneoff(in, out unsafe.Pointer, count uint32, ready unsafe.Pointer) (errno uint32)

type patientInput struct{}

func (patientInput) Read(p []byte) (int, error) {
	for waiting := true; waiting; {
		runtime.Gosched() // the others, as far as they get
		in := [2]subscription{{kind: 1}, {userdata: 1, id: 1, timeout: 10_000_000}}
		var events [2]struct {
			userdata uint64
			_        [3]uint64
		}
		var count uint32
		failed := pollOneoff(unsafe.Pointer(&in), unsafe.Pointer(&events), 2, unsafe.Pointer(&count)) != 0
		waiting = !failed && count == 1 && events[0].userdata == 1
	}
	return os.Stdin.Read(p)
}

func init() { fromKernel = json.NewDecoder(patientInput{}) }
