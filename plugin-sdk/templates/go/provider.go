// A provider that runs commands in folders of this machine. Replace what touches folders by your platform's calls.
package main

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// Lease is what crabbox knows of a box.
type Lease struct {
	LeaseID    string            `json:"leaseId"`
	Slug       string            `json:"slug"`
	Name       string            `json:"name"`
	CloudID    string            `json:"cloudId"`
	Status     string            `json:"status"`
	ServerType string            `json:"serverType"`
	Labels     map[string]string `json:"labels"`
}

type toyPlatform struct {
	root, greeting, path, home string
}

func open(instance JSON) (map[string]Method, error) {
	t := &toyPlatform{root: At[string](instance, "config", "root"), greeting: At[string](instance, "config", "greeting"),
		path: At[string](instance, "user", "path"), home: At[string](instance, "user", "home")}
	if t.root == "" {
		t.root = os.Getenv("CRABBOX_STATE_DIR")
	}
	t.root = filepath.Join(t.root, "boxes")
	return map[string]Method{"config.validate": nothing, "doctor": doctor, "run.warmup": t.warmup, "run.start": t.start,
		"run.list": t.list, "run.status": t.status, "run.stop": t.stop}, nil
}

func nothing(*Call, JSON) (any, error) { return M{}, nil }

func doctor(*Call, JSON) (any, error) { return M{"checks": []M{}}, nil }

// One folder is one box; `box.json` in it is its label.

func (t *toyPlatform) box(cloudID string) *Lease {
	var lease Lease
	text, err := os.ReadFile(filepath.Join(t.root, filepath.Base(cloudID), "box.json"))
	if err != nil || json.Unmarshal(text, &lease) != nil || lease.CloudID != cloudID {
		return nil
	}
	return &lease
}

func (t *toyPlatform) boxes() []*Lease {
	boxes := []*Lease{}
	entries, _ := os.ReadDir(t.root)
	for _, entry := range entries {
		if box := t.box(entry.Name()); box != nil {
			boxes = append(boxes, box)
		}
	}
	return boxes
}

func (t *toyPlatform) warmup(call *Call, params JSON) (any, error) {
	lease, labels := At[Lease](params, "desired"), At[map[string]string](params, "labels")
	lease.CloudID, lease.Status, lease.ServerType, lease.Labels = lease.LeaseID, "ready", "folder", labels
	folder := filepath.Join(t.root, lease.CloudID)
	if err := os.MkdirAll(filepath.Join(folder, "work"), 0o755); err != nil {
		return nil, err
	}
	// Before anything else: from now on it can be found again.
	if err := call.Record("folder", lease.CloudID, false); err != nil {
		return nil, err
	}
	text, _ := json.Marshal(lease)
	return M{"lease": lease}, os.WriteFile(filepath.Join(folder, "box.json"), text, 0o644)
}

func (t *toyPlatform) status(_ *Call, params JSON) (any, error) {
	id := At[string](params, "id")
	for _, box := range t.boxes() {
		if id == box.LeaseID || id == box.Slug || id == box.Name || id == box.CloudID {
			return M{"lease": box}, nil
		}
	}
	return nil, Fail("not_found", "not-started", "no box %s", id)
}

func (t *toyPlatform) list(*Call, JSON) (any, error) {
	return M{"leases": t.boxes(), "complete": true}, nil
}

func (t *toyPlatform) stop(_ *Call, params JSON) (any, error) {
	cloudID, expected := At[string](params, "lease", "cloudId"), At[Lease](params, "expected")
	folder, box := filepath.Join(t.root, filepath.Base(cloudID)), t.box(cloudID)
	if box == nil {
		return M{"outcome": "already_gone"}, os.RemoveAll(folder)
	}
	if box.LeaseID != expected.LeaseID || expected.CloudID != "" && expected.CloudID != box.CloudID {
		return nil, Fail("precondition", "not-started", "box %s belongs to lease %s", box.CloudID, box.LeaseID)
	}
	return M{"outcome": "released"}, os.RemoveAll(folder)
}

func (t *toyPlatform) start(call *Call, params JSON) (any, error) {
	box := t.box(At[string](params, "lease", "cloudId"))
	if box == nil {
		return nil, Fail("not_found", "not-started", "the box is gone")
	}
	work := filepath.Join(t.root, box.CloudID, "work")
	if tree := At[string](params, "workspace"); tree != "" {
		unpack := exec.Command("tar", "-xf", tree, "-C", work)
		for _, step := range []func() error{
			func() error { return os.RemoveAll(work) },
			func() error { return os.Mkdir(work, 0o755) },
			unpack.Run,
		} {
			if err := step(); err != nil {
				return nil, err
			}
		}
	}
	if t.greeting != "" {
		if err := call.Output("stdout", []byte(t.greeting+"\n")); err != nil {
			return nil, err
		}
	}
	if err := call.Err(); err != nil {
		return nil, err
	}
	os.Setenv("PATH", t.path) // where programs are looked for
	words := At[[]string](params, "command")
	command := exec.Command(words[0], words[1:]...)
	command.Dir, command.SysProcAttr = work, &syscall.SysProcAttr{Setpgid: true}
	command.Env = []string{"PATH=" + t.path, "HOME=" + t.home}
	for name, value := range At[map[string]string](params, "env") {
		command.Env = append(command.Env, name+"="+value)
	}
	return follow(call, command)
}

var signals = map[syscall.Signal]string{syscall.SIGHUP: "HUP", syscall.SIGINT: "INT", syscall.SIGQUIT: "QUIT",
	syscall.SIGABRT: "ABRT", syscall.SIGKILL: "KILL", syscall.SIGSEGV: "SEGV", syscall.SIGTERM: "TERM"}

// follow sends what a process prints, and how it ended. A cancelled call ends the process.
func follow(call *Call, command *exec.Cmd) (any, error) {
	stdout, _ := command.StdoutPipe()
	stderr, _ := command.StderrPipe()
	if err := command.Start(); errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return M{"exitCode": 127}, call.Output("stderr", []byte(command.Path+": not found\n"))
	} else if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-call.Done():
			syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
		case <-ended:
		}
	}()
	var relays sync.WaitGroup
	for ch, pipe := range map[string]io.Reader{"stdout": stdout, "stderr": stderr} {
		relays.Add(1)
		go func(ch string, pipe io.Reader) {
			defer relays.Done()
			buffer := make([]byte, 1<<16)
			for n, err := pipe.Read(buffer); err == nil; n, err = pipe.Read(buffer) {
				if call.Output(ch, buffer[:n]) != nil {
					return
				}
			}
		}(ch, pipe)
	}
	relays.Wait()
	command.Wait()
	if call.Err() != nil {
		return nil, Fail("cancelled", "rolled-back", "the command was stopped")
	}
	status := command.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return M{"exitCode": 128 + int(status.Signal()), "signal": signals[status.Signal()]}, nil
	}
	return M{"exitCode": status.ExitStatus()}, nil
}

func main() {
	Serve(M{
		"protocol": "1.0",
		"plugin":   M{"id": "example.dev/toy-platform", "version": "0.1.0"},
		"provider": M{"name": "toy-platform", "kind": "delegated-run", "features": []string{}, "idempotentAcquire": true},
	}, open)
}
