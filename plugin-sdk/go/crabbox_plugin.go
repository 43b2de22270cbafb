// Everything a crabbox provider in Go needs, in one file: copy it beside your program. Go 1.19, standard library only.
// docs/protocol.md has the params and results of methods and callbacks. os.Stdout is safe to print to: it goes to the log.
//
// Built with GOOS=wasip1 (Go 1.21 or newer) it is a `wasi-stdio` plugin. There a read holds up every goroutine, so calls
// run one inside the other: what waits in Ask or Output reads on meanwhile. Do not wait for Done there; look at Err.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

var kinds = map[string]int{"invalid_config": 1001, "invalid_request": 1002, "unsupported": 1003, "auth": 1010,
	"permission": 1011, "billing": 1012, "not_found": 1020, "conflict": 1021, "precondition": 1022, "expired": 1023,
	"capacity": 1030, "quota": 1031, "rate_limited": 1032, "transient": 1040, "timeout": 1041, "bootstrap": 1042,
	"cancelled": 1050, "grant_denied": 1060, "internal": 1099}

const alone, ms, grace = runtime.GOOS == "wasip1", time.Millisecond, 10 * time.Second

// M is a JSON object; as an error it has a code, a message and data.
type M map[string]any

func (m M) Error() string { return fmt.Sprint(m["message"]) }

// Fail has a kind of the table above; outcome says what may be left: not-started, rolled-back, completed or uncertain.
func Fail(kind, outcome, format string, args ...any) error {
	if kinds[kind] == 0 {
		kind = "internal"
	}
	line := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
	return M{"code": kinds[kind], "message": fmt.Sprintf("%.500s", line), "data": M{"kind": kind, "outcome": outcome}}
}

// Method answers a call, on a goroutine of its own.
type Method func(call *Call, params json.RawMessage) (result any, err error)

// Plugin repeats what crabbox-plugin.toml says. Open reads the settings and gives the methods by name.
type Plugin struct {
	ID, Version, Provider, Kind string
	IdempotentAcquire           bool
	Open                        func(config json.RawMessage) (map[string]Method, error)
}

// Call is the way to the kernel, and a context that ends when the kernel wants the call to end.
type Call struct {
	context.Context
	Idem   string
	DryRun bool
	*session
	id   json.RawMessage
	stop func()
	last time.Time      // the kernel waits no longer
	room int            // for output
	sent map[string]int // of each channel
}

func (c *Call) cancel(grace time.Duration) {
	c.last = time.Now().Add(grace)
	c.stop()
}

// wait is with the session locked, for something that the kernel says while it waits for this call.
func (c *Call) wait(until func() bool) {
	for !until() && time.Now().Before(c.last) {
		if alone {
			c.Unlock()
			c.read()
			c.Lock()
			continue
		}
		timer := time.AfterFunc(time.Until(c.last), func() { c.Lock(); c.news.Broadcast(); c.Unlock() })
		c.news.Wait()
		timer.Stop()
	}
}

// Ask makes any callback; result may be nil.
func (c *Call) Ask(method string, params M, result any) error {
	c.Lock()
	defer c.Unlock()
	c.asked++
	id, answer := fmt.Sprintf(`"p%d"`, c.asked), &frame{}
	c.answers[id] = answer
	defer delete(c.answers, id)
	params["call"] = c.id
	c.send(M{"id": json.RawMessage(id), "method": method, "params": params})
	if c.wait(func() bool { return answer.ID != nil }); answer.ID == nil {
		return Fail("timeout", "uncertain", "the kernel did not answer %s", method)
	} else if answer.Error.Message != "" {
		return Fail(answer.Error.Data.Kind, "uncertain", "%s", answer.Error.Message)
	}
	return json.Unmarshal(answer.Result, &result)
}

// Record comes right after something was created: it returns once the kernel has it on disk.
func (c *Call) Record(kind, id string, billable bool) error {
	return c.Ask("host/resource.record", M{"resource": M{"kind": kind, "cloudId": id, "billable": billable}}, nil)
}

// Tell sends an event: log, progress, attempt, usage.
func (c *Call) Tell(event string, params M) {
	c.Lock()
	defer c.Unlock()
	params["call"] = c.id
	c.send(M{"method": "event/" + event, "params": params})
}

// Output passes on bytes of a delegated command; it waits while the kernel has no room.
func (c *Call) Output(ch string, data []byte) error {
	c.Lock()
	defer c.Unlock()
	for n := 48 * 1024; len(data) > 0; data = data[n:] {
		if c.wait(func() bool { return c.room > 0 || c.Err() != nil }); c.Err() != nil {
			return c.Err()
		} else if n > len(data) {
			n = len(data)
		}
		c.send(M{"method": "event/output", "params": M{"call": c.id, "ch": ch, "off": c.sent[ch], "b64": data[:n]}})
		c.room, c.sent[ch] = c.room-n, c.sent[ch]+n
	}
	return nil
}

// frame is what comes, with the params that are not the provider's.
type frame struct {
	ID             json.RawMessage
	Method         string
	Params, Result json.RawMessage
	Error          struct {
		Message string
		Data    struct{ Kind string }
	}
}

type params struct {
	ID, Call       json.RawMessage // of $/cancel, of $/credit
	Bytes, GraceMs int
	Ctx            struct {
		Idem                string
		DryRun              bool
		DeadlineMs, GraceMs int
	}
	Protocols []string
	Instance  struct {
		Provider string
		Config   json.RawMessage
		User     struct{ Path, Home string }
	}
	Limits struct{ OutputWindow int }
}

// session is locked, except while the provider's methods work and while anything waits.
type session struct {
	Plugin
	sync.Mutex
	news          *sync.Cond
	in            *bufio.Scanner
	out           *os.File
	methods       map[string]Method
	calls         map[string]*Call
	answers       map[string]*frame
	window, asked int
	down          bool
}

func (s *session) send(frame M) {
	frame["jsonrpc"] = "2.0"
	text, _ := json.Marshal(frame)
	s.out.Write(append(text, '\n'))
}

func (s *session) answer(id json.RawMessage, result any, err error) {
	if err == nil {
		s.send(M{"id": id, "result": result})
	} else if failure, ok := err.(M); ok {
		s.send(M{"id": id, "error": failure})
	} else {
		s.send(M{"id": id, "error": Fail("internal", "uncertain", "%v", err)})
	}
}

func (s *session) initialize(p params) (any, error) {
	offered, names := strings.Join(p.Protocols, ", "), []string{}
	if !strings.Contains(", "+offered+",", ", 1.0,") {
		return nil, Fail("unsupported", "not-started", "the plugin speaks protocol 1.0, the kernel %s: update one", offered)
	} else if p.Instance.Provider != s.Provider {
		return nil, Fail("unsupported", "not-started", "no provider %s", p.Instance.Provider)
	}
	os.Setenv("PATH", p.Instance.User.Path) // where programs are looked for
	os.Setenv("HOME", p.Instance.User.Home)
	methods, err := s.Open(p.Instance.Config)
	for name := range methods {
		names = append(names, name)
	}
	s.methods, s.window = methods, p.Limits.OutputWindow
	return M{"protocol": "1.0", "plugin": M{"id": s.ID, "version": s.Version}, "methods": names, "provider": M{
		"name": s.Provider, "kind": s.Kind, "idempotentAcquire": s.IdempotentAcquire}}, err
}

func (s *session) work(f frame, call *Call) {
	result, err := any(nil), error(nil)
	defer func() {
		if bug := recover(); bug != nil { // costs one call
			err = fmt.Errorf("%v", bug)
		}
		s.Lock()
		defer s.Unlock()
		delete(s.calls, string(f.ID))
		s.answer(f.ID, result, err)
		s.news.Broadcast()
	}()
	result, err = s.methods[f.Method](call, f.Params)
}

func (s *session) take(f frame) {
	var p params
	json.Unmarshal(f.Params, &p)
	switch call, answer := s.calls[string(p.ID)+string(p.Call)], s.answers[string(f.ID)]; {
	case f.Method == "" && answer != nil:
		*answer = f
	case f.Method == "$/credit" && call != nil:
		call.room += p.Bytes
	case f.Method == "$/cancel" && call != nil:
		call.cancel(time.Duration(p.GraceMs) * ms)
	case f.Method == "" || f.ID == nil: // of a newer kernel
	case f.Method == "initialize" && s.methods == nil:
		result, err := s.initialize(p)
		s.answer(f.ID, result, err)
	case f.Method == "initialize" || s.methods == nil:
		s.answer(f.ID, nil, M{"code": -32600, "message": "initialize comes first, and once"})
	case f.Method == "ping" || f.Method == "shutdown":
		s.down = s.down || f.Method == "shutdown"
		s.answer(f.ID, M{}, nil)
	case s.down:
		s.answer(f.ID, nil, M{"code": -32600, "message": "the session is shut down"})
	case s.methods[f.Method] == nil:
		s.answer(f.ID, nil, M{"code": -32601, "message": "no method " + f.Method})
	case p.Ctx.DeadlineMs <= 0:
		s.answer(f.ID, nil, Fail("timeout", "not-started", "the call's time ran out"))
	default:
		call := &Call{Idem: p.Ctx.Idem, DryRun: p.Ctx.DryRun, session: s, id: f.ID, room: s.window, sent: map[string]int{}}
		call.last = time.Now().Add(time.Duration(p.Ctx.DeadlineMs+p.Ctx.GraceMs) * ms)
		call.Context, call.stop = context.WithCancel(context.Background())
		s.calls[string(f.ID)] = call
		if !alone {
			go s.work(f, call)
			break
		}
		s.Unlock()
		s.work(f, call)
		s.Lock()
	}
	s.news.Broadcast()
}

// read takes one line; at the end of the wire it winds up what is open, and is false.
func (s *session) read() bool {
	more, f := s.in.Scan(), frame{}
	s.Lock()
	defer s.Unlock()
	if !more {
		for _, call := range s.calls {
			call.cancel(0)
		}
		s.news.Broadcast()
	} else if line := s.in.Text(); strings.TrimSpace(line) != "" {
		if json.Unmarshal([]byte(line), &f) != nil {
			os.Exit(1) // what is no frame ends the plugin
		}
		s.take(f)
	}
	return more
}

// Serve is the main function of a plugin: it serves the kernel that started this process, then ends it.
func Serve(plugin Plugin) {
	if os.Getenv("CRABBOX_PLUGIN") != "1" {
		fmt.Fprintln(os.Stderr, "this is a crabbox plugin; crabbox starts it by itself")
		os.Exit(64)
	}
	s := &session{Plugin: plugin, in: bufio.NewScanner(os.Stdin), out: os.Stdout,
		calls: map[string]*Call{}, answers: map[string]*frame{}}
	s.news, os.Stdout = sync.NewCond(s), os.Stderr
	s.in.Buffer(nil, 1<<20+1)
	for s.read() {
	}
	time.AfterFunc(grace, func() { os.Exit(0) })
	s.Lock()
	for len(s.calls) > 0 {
		s.news.Wait()
	}
}
