// Everything a crabbox provider in Go needs, in one file: copy it beside your program. Go 1.19, standard library only.
// docs/protocol.md has the params and results of methods and callbacks. os.Stdout is safe to print to: it goes to the log.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

var kinds = map[string]int{"invalid_config": 1001, "invalid_request": 1002, "unsupported": 1003, "auth": 1010,
	"permission": 1011, "billing": 1012, "not_found": 1020, "conflict": 1021, "precondition": 1022, "expired": 1023,
	"capacity": 1030, "quota": 1031, "rate_limited": 1032, "transient": 1040, "timeout": 1041, "bootstrap": 1042,
	"cancelled": 1050, "grant_denied": 1060, "internal": 1099}

var fromKernel, toKernel = json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout) // crabbox_plugin_wasip1.go sets one

// JSON is what comes; At reads it. M is an object that goes; as an error it has a code, a message and data.
type JSON = json.RawMessage
type M map[string]any

func (m M) Error() string { return fmt.Sprint(m["message"]) }

// Fail has a kind of the table above; outcome says what may be left: not-started, rolled-back, completed or uncertain.
func Fail(kind, outcome, format string, args ...any) M {
	line := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
	return M{"code": kinds[kind], "message": fmt.Sprintf("%.500s", line), "data": M{"kind": kind, "outcome": outcome}}
}

// At is what stands at a path, as in At[string](params, "lease", "slug"); zero when nothing does.
func At[T any](text JSON, path ...string) (value T) {
	for _, name := range path {
		members := map[string]JSON{}
		json.Unmarshal(text, &members)
		text = members[name]
	}
	json.Unmarshal(text, &value)
	return value
}

// Method answers a call, on a goroutine of its own.
type Method func(call *Call, params JSON) (result any, err error)

// Call is the way to the kernel, and a context that ends when the kernel wants the call to end.
type Call struct {
	context.Context
	*session
	id   JSON
	stop func()
	room int            // for output
	sent map[string]int // of each channel
}

// Ask makes any callback.
func (c *Call) Ask(method string, params M) (result JSON, err error) {
	defer c.lock()()
	c.asked++
	id := fmt.Sprintf(`"p%d"`, c.asked)
	defer delete(c.answers, id)
	params["call"] = c.id
	c.send(M{"id": JSON(id), "method": method, "params": params})
	for c.answers[id] == nil && c.wire.Err() == nil {
		c.Wait()
	}
	answer := c.answers[id]
	if result = At[JSON](answer, "result"); result == nil {
		err = Fail(At[string](answer, "error", "data", "kind"), "uncertain", "%s", At[string](answer, "error", "message"))
	}
	return result, err
}

// Record comes right after something was created: it returns once the kernel has it on disk.
func (c *Call) Record(kind, id string, billable bool) error {
	_, err := c.Ask("host/resource.record", M{"resource": M{"kind": kind, "cloudId": id, "billable": billable}})
	return err
}

// Tell sends an event: log, progress, attempt, usage.
func (c *Call) Tell(event string, params M) {
	defer c.lock()()
	params["call"] = c.id
	c.send(M{"method": "event/" + event, "params": params})
}

// Output passes on bytes of a delegated command; it waits while the kernel has no room.
func (c *Call) Output(ch string, data []byte) error {
	defer c.lock()()
	for part := make([]byte, 48*1024); len(data) > 0 && c.Err() == nil; {
		if c.room <= 0 {
			c.Wait()
			continue
		}
		n := copy(part, data)
		c.send(M{"method": "event/output", "params": M{"call": c.id, "ch": ch, "off": c.sent[ch], "b64": part[:n]}})
		c.room, c.sent[ch], data = c.room-n, c.sent[ch]+n, data[n:]
	}
	return c.Err()
}

type session struct {
	*sync.Cond    // locked, except while anything waits and while the provider works
	wire          context.Context
	hello         M
	open          func(instance JSON) (map[string]Method, error)
	methods       map[string]Method
	calls         map[string]*Call
	answers       map[string]JSON
	window, asked int
	down          bool
}

func (s *session) lock() func() { s.L.Lock(); return func() { s.Broadcast(); s.L.Unlock() } }
func (s *session) send(frame M) { frame["jsonrpc"] = "2.0"; toKernel.Encode(frame) }

func (s *session) initialize(_ *Call, params JSON) (any, error) {
	if offered := string(At[JSON](params, "protocols")); !strings.Contains(offered, `"1.0"`) {
		return nil, Fail("unsupported", "not-started", "the plugin speaks protocol 1.0, not %s: update one", offered)
	}
	methods, err := s.open(At[JSON](params, "instance"))
	names := []string{}
	for name := range methods {
		names = append(names, name)
	}
	defer s.lock()()
	s.methods, s.window, s.hello["methods"] = methods, At[int](params, "limits", "outputWindow"), names
	return s.hello, err
}

func (s *session) work(call *Call, method Method, params JSON) {
	reply := M{"id": call.id}
	defer func() {
		if bug := recover(); bug != nil { // costs one call
			reply["error"] = Fail("internal", "uncertain", "%v", bug)
		}
		defer s.lock()()
		call.stop()
		delete(s.calls, string(call.id))
		s.send(reply)
	}()
	if result, err := method(call, params); err == nil {
		reply["result"] = result
	} else if failure, ok := err.(M); ok {
		reply["error"] = failure
	} else {
		panic(err)
	}
}

func (s *session) take(f JSON) {
	defer s.lock()()
	id, name, params := At[JSON](f, "id"), At[string](f, "method"), At[JSON](f, "params")
	method, call := s.methods[name], s.calls[string(At[JSON](params, "id"))+string(At[JSON](params, "call"))]
	switch opened := s.hello["methods"] != nil; {
	case name == "":
		s.answers[string(id)] = f
	case name == "$/credit" && call != nil:
		call.room += At[int](params, "bytes")
	case name == "$/cancel" && call != nil:
		call.stop()
	case id == nil: // of a newer kernel
	case opened == (name == "initialize") || s.down:
		s.send(M{"id": id, "error": M{"code": -32600, "message": "initialize comes first, shutdown last, each once"}})
	case name == "ping" || name == "shutdown":
		s.down = name == "shutdown"
		s.send(M{"id": id, "result": M{}})
	case method == nil:
		s.send(M{"id": id, "error": M{"code": -32601, "message": "no method " + name}})
	case opened && At[int](params, "ctx", "deadlineMs") <= 0:
		s.send(M{"id": id, "error": Fail("timeout", "not-started", "the call's time ran out")})
	default:
		call = &Call{session: s, id: id, room: s.window, sent: map[string]int{}}
		call.Context, call.stop = context.WithCancel(s.wire)
		s.calls[string(id)] = call
		go s.work(call, method, params)
	}
}

// Serve is all that main does. Hello is the result of initialize but for the methods, which open gives by name.
func Serve(hello M, open func(instance JSON) (map[string]Method, error)) {
	if os.Getenv("CRABBOX_PLUGIN") != "1" {
		fmt.Fprintln(os.Stderr, "this is a crabbox plugin; crabbox starts it by itself")
		os.Exit(64)
	}
	wire, cut := context.WithCancel(context.Background())
	s := &session{Cond: sync.NewCond(&sync.Mutex{}), wire: wire, hello: hello, open: open,
		calls: map[string]*Call{}, answers: map[string]JSON{}}
	s.methods, os.Stdout = map[string]Method{"initialize": s.initialize}, os.Stderr
	for f := (JSON{}); fromKernel.Decode(&f) == nil; f = nil {
		s.take(f)
	}
	cut()
	time.AfterFunc(10*time.Second, func() { os.Exit(0) })
	defer s.lock()()
	for s.Broadcast(); len(s.calls) > 0; s.Wait() {
	}
}
