// Everything a crabbox provider in Go needs, in one file: copy it beside your program.
//
// Give Serve your methods by name; docs/protocol.md has their params and results. Return Fail(…) for what goes wrong.
// Every method runs on a goroutine of its own and gets a Call, its way to the kernel. Go 1.19 or newer, standard library
// only. Print to standard error: standard output is the wire, and os.Stdout is turned away from it.
//
// Built with GOOS=wasip1 (Go 1.21 or newer) it is a `wasi-stdio` plugin. There a read holds up every goroutine, so calls
// run one inside the other: what waits in Ask, Sleep or Output reads on meanwhile. Do not wait on Stopped there; Check.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var kinds = map[string]int{"invalid_config": 1001, "invalid_request": 1002, "unsupported": 1003, "auth": 1010,
	"permission": 1011, "billing": 1012, "not_found": 1020, "conflict": 1021, "precondition": 1022, "expired": 1023,
	"capacity": 1030, "quota": 1031, "rate_limited": 1032, "transient": 1040, "timeout": 1041, "bootstrap": 1042,
	"cancelled": 1050, "grant_denied": 1060, "internal": 1099}

const chunk, grace, longest, alone = 48 * 1024, 10 * time.Second, 1 << 20, runtime.GOOS == "wasip1"

// M is a JSON object.
type M = map[string]any

// Failure has a kind of the table above; Outcome says whether something may be left behind, More the rest of its data.
type Failure struct {
	Kind, Message, Outcome string
	More                   M
}

func (f *Failure) Error() string { return f.Message }

// Fail is a failure that left nothing behind.
func Fail(kind, format string, args ...any) *Failure {
	return &Failure{kind, fmt.Sprintf(format, args...), "not-started", nil}
}

// Method answers one call with anything encoding/json takes.
type Method func(call *Call, params json.RawMessage) (result any, err error)

// Instance is what the provider is opened with: its settings, and facts about the user.
type Instance struct {
	Provider string
	Config   json.RawMessage
	User     struct{ Path, Home string }
}

// Plugin repeats what crabbox-plugin.toml says. Open reads the settings and gives the methods.
type Plugin struct {
	ID, Version, Provider, Kind string
	IdempotentAcquire           bool
	Open                        func(Instance) (map[string]Method, error)
}

// Call is one open call. Callbacks wait for the kernel's answer; Stopped is closed when the kernel cancels the call.
type Call struct {
	Idem    string
	DryRun  bool
	Stopped chan struct{}
	session *session
	id      uint64
	last    time.Time
	credit  int
	offsets map[string]int
	room    *sync.Cond // its lock guards last, credit and offsets
}

func (c *Call) cancel(grace time.Duration) {
	c.room.L.Lock()
	defer c.room.L.Unlock()
	if c.last = time.Now().Add(grace); c.Check() == nil {
		close(c.Stopped)
	}
	c.room.Broadcast()
}

// Check ends the work once the kernel wants it to; call it between steps.
func (c *Call) Check() error {
	select {
	case <-c.Stopped:
		return &Failure{"cancelled", "cancelled", "uncertain", nil}
	default:
		return nil
	}
}

// Ask makes any callback of docs/protocol.md; result may be nil.
func (c *Call) Ask(method string, params M, result any) error {
	params["call"] = c.id
	id, answer := fmt.Sprintf("p%d", atomic.AddUint64(&c.session.asked, 1)), make(chan frame, 1)
	c.session.waiting.Store(id, answer)
	defer c.session.waiting.Delete(id)
	c.session.send(M{"id": id, "method": method, "params": params})
	for alone && len(answer) == 0 && c.session.read() {
	}
	c.room.L.Lock()
	left := time.Until(c.last)
	c.room.L.Unlock()
	select {
	case <-time.After(left):
		return &Failure{"timeout", "the kernel did not answer " + method, "uncertain", nil}
	case f := <-answer:
		if f.Error != nil {
			return &Failure{f.Error.Data.Kind, f.Error.Message, "uncertain", nil}
		} else if result == nil {
			return nil
		}
		return json.Unmarshal(f.Result, result)
	}
}

// Tell sends an event: log, progress, attempt, usage.
func (c *Call) Tell(event string, params M) {
	params["call"] = c.id
	c.session.send(M{"method": "event/" + event, "params": params})
}

// Record comes right after something was created: it returns once the kernel has it on disk.
func (c *Call) Record(kind, id string, billable bool) error {
	return c.Ask("host/resource.record", M{"resource": M{"kind": kind, "cloudId": id, "billable": billable}}, nil)
}

// Sleep is true when the time passed, false when the call was cancelled meanwhile.
func (c *Call) Sleep(time time.Duration) bool {
	var slept struct{ Woken string }
	return c.Ask("host/sleep", M{"ms": time.Milliseconds()}, &slept) == nil && slept.Woken == "time"
}

// Output passes on bytes of a delegated command; it waits while the kernel has no room.
func (c *Call) Output(ch string, data []byte) error {
	c.room.L.Lock()
	defer c.room.L.Unlock()
	for at := 0; at < len(data); {
		for c.credit <= 0 && c.Check() == nil {
			c.wait()
		}
		if err := c.Check(); err != nil {
			return err
		}
		part := data[at:]
		if len(part) > chunk {
			part = part[:chunk]
		}
		c.Tell("output", M{"ch": ch, "off": c.offsets[ch], "b64": part}) // encoding/json writes bytes in base64
		at, c.credit, c.offsets[ch] = at+len(part), c.credit-len(part), c.offsets[ch]+len(part)
	}
	return nil
}

// wait is until something changed.
func (c *Call) wait() {
	if !alone {
		c.room.Wait()
		return
	}
	c.room.L.Unlock()
	defer c.room.L.Lock()
	c.session.read()
}

type frame struct {
	ID             json.RawMessage
	Method         string
	Params, Result json.RawMessage
	Error          *struct {
		Message string
		Data    struct{ Kind string }
	}
}

type session struct {
	plugin         Plugin
	methods        map[string]Method
	window         int
	down           bool
	asked          uint64
	in             *bufio.Scanner
	out            *os.File
	turn           sync.Mutex // to write
	calls, waiting sync.Map
}

func (s *session) send(frame M) {
	frame["jsonrpc"] = "2.0"
	text, _ := json.Marshal(frame)
	s.turn.Lock()
	defer s.turn.Unlock()
	s.out.Write(append(text, '\n'))
}

func (s *session) initialize(_ *Call, params json.RawMessage) (any, error) {
	var hello struct {
		Protocols []string
		Instance  Instance
		Limits    struct{ OutputWindow int }
	}
	if err := json.Unmarshal(params, &hello); err != nil {
		return nil, err
	} else if offered := strings.Join(hello.Protocols, ", "); !strings.Contains(", "+offered+",", ", 1.0,") {
		return nil, &Failure{"unsupported", "no common protocol: the kernel offers " + offered + ", the plugin speaks 1.0",
			"not-started", M{"hint": "update the older of the two"}}
	} else if hello.Instance.Provider != s.plugin.Provider {
		return nil, Fail("unsupported", "no provider %s", hello.Instance.Provider)
	}
	if s.window = hello.Limits.OutputWindow; s.window == 0 {
		s.window = 1 << 20
	}
	methods, err := s.plugin.Open(hello.Instance)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for name := range methods {
		names = append(names, name)
	}
	s.methods = methods
	return M{"protocol": "1.0", "plugin": M{"id": s.plugin.ID, "version": s.plugin.Version}, "methods": names,
		"provider": M{"name": s.plugin.Provider, "kind": s.plugin.Kind, "idempotentAcquire": s.plugin.IdempotentAcquire}}, nil
}

func (s *session) work(id json.RawMessage, call *Call, method Method, params json.RawMessage) {
	result, err := func() (result any, err error) {
		defer func() { // a bug of the provider costs one call
			if bug := recover(); bug != nil {
				err = fmt.Errorf("%v", bug)
			}
		}()
		return method(call, params)
	}()
	s.calls.Delete(string(id))
	if err == nil {
		s.send(M{"id": id, "result": result})
		return
	}
	s.fail(id, err)
}

func (s *session) fail(id json.RawMessage, err error) {
	failure, ok := err.(*Failure)
	if !ok {
		failure = &Failure{"internal", err.Error(), "uncertain", nil}
	}
	message := strings.Join(strings.Fields(failure.Message), " ")
	data := M{"kind": failure.Kind, "outcome": failure.Outcome}
	for name, value := range failure.More {
		data[name] = value
	}
	s.send(M{"id": id, "error": M{"code": kinds[failure.Kind], "message": message, "data": data}})
}

func (s *session) request(f frame) {
	refuse := func(code int, why string) { s.send(M{"id": f.ID, "error": M{"code": code, "message": why}}) }
	method, known := s.methods[f.Method]
	var bounds struct {
		Ctx struct {
			Idem                string
			DryRun              bool
			DeadlineMs, GraceMs int64
		}
	}
	switch {
	case s.methods != nil && (f.Method == "ping" || f.Method == "shutdown"):
		s.down = s.down || f.Method == "shutdown"
		s.send(M{"id": f.ID, "result": M{}})
	case s.methods == nil && f.Method == "initialize":
		s.work(f.ID, nil, s.initialize, f.Params)
	case s.down:
		refuse(-32600, "the session is shut down")
	case s.methods == nil || f.Method == "initialize":
		refuse(-32600, "initialize comes first, and once")
	case !known:
		refuse(-32601, "no method "+f.Method)
	case json.Unmarshal(f.Params, &bounds) != nil || bounds.Ctx.DeadlineMs <= 0:
		s.fail(f.ID, &Failure{"timeout", "the call's time ran out", "not-started", nil})
	default:
		ctx := bounds.Ctx
		call := &Call{Idem: ctx.Idem, DryRun: ctx.DryRun, Stopped: make(chan struct{}), session: s, credit: s.window,
			last:    time.Now().Add(time.Duration(ctx.DeadlineMs+ctx.GraceMs) * time.Millisecond),
			offsets: map[string]int{}, room: sync.NewCond(&sync.Mutex{})}
		json.Unmarshal(f.ID, &call.id)
		s.calls.Store(string(f.ID), call)
		if alone {
			s.work(f.ID, call, method, f.Params)
			return
		}
		go s.work(f.ID, call, method, f.Params)
	}
}

// read takes one frame; at the end of the wire it winds up what is open, and is false.
func (s *session) read() bool {
	for s.in.Scan() {
		var f frame
		if line := bytes.TrimSpace(s.in.Bytes()); len(line) == 0 {
			continue
		} else if json.Unmarshal(line, &f) != nil {
			os.Exit(1) // what is no frame ends the plugin
		}
		s.take(f)
		return true
	}
	s.calls.Range(func(_, call any) bool { call.(*Call).cancel(grace); return true })
	gone := frame{}
	json.Unmarshal([]byte(`{"error":{"message":"the kernel is gone","data":{"kind":"cancelled"}}}`), &gone)
	s.waiting.Range(func(_, waiting any) bool { answer(waiting, gone); return true })
	return false
}

// answer hands over an answer once; a second one has nobody to read it.
func answer(waiting any, f frame) {
	select {
	case waiting.(chan frame) <- f:
	default:
	}
}

func (s *session) take(f frame) {
	var params struct {
		ID, Call json.RawMessage
		GraceMs  int64
		Bytes    int
	}
	json.Unmarshal(f.Params, &params)
	if f.Method == "$/cancel" {
		if call, ok := s.calls.Load(string(params.ID)); ok {
			call.(*Call).cancel(time.Duration(params.GraceMs) * time.Millisecond)
		}
	} else if f.Method == "$/credit" {
		if found, ok := s.calls.Load(string(params.Call)); ok {
			call := found.(*Call)
			call.room.L.Lock()
			call.credit += params.Bytes
			call.room.L.Unlock()
			call.room.Broadcast()
		}
	} else if f.Method != "" && f.ID != nil {
		s.request(f)
	} else if f.Method == "" {
		var id string
		json.Unmarshal(f.ID, &id)
		if waiting, ok := s.waiting.Load(id); ok {
			answer(waiting, f)
		}
	}
}

// Serve is the main function of a plugin: it serves the kernel that started this process, then ends it.
func Serve(plugin Plugin) {
	if os.Getenv("CRABBOX_PLUGIN") != "1" {
		fmt.Fprintln(os.Stderr, "this is a crabbox plugin; crabbox starts it by itself")
		os.Exit(64)
	}
	s := &session{plugin: plugin, in: bufio.NewScanner(os.Stdin), out: os.Stdout}
	os.Stdout = os.Stderr
	s.in.Buffer(nil, longest+1)
	for s.read() {
	}
	for until := time.Now().Add(grace); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		busy := false
		s.calls.Range(func(_, _ any) bool { busy = true; return false })
		if !busy {
			break
		}
	}
}
