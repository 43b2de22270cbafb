//! A line does what it says, and nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Direction, Fault, Line, Shape};

/// A server for one connection after the other; it says back what it hears.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let _ = std::io::copy(&mut &stream, &mut &stream);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    addr
}

/// What a server heard, and how that ended when it was no plain end.
type Heard = (Vec<u8>, Option<ErrorKind>);

/// A server that keeps what it hears from one connection.
fn listener() -> (SocketAddr, JoinHandle<Heard>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).err().map(|e| e.kind());
        (bytes, end)
    });
    (addr, heard)
}

fn connect(line: &Line) -> TcpStream {
    let stream = TcpStream::connect(line.addr()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Time of one question and answer.
fn ask(stream: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    stream.write_all(b"?").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    begun.elapsed()
}

/// The quickest of some questions, which noise hardly touches.
fn quickest(stream: &mut TcpStream, questions: usize) -> Duration {
    (0..questions).map(|_| ask(stream)).min().unwrap()
}

/// Bytes that repeat nowhere soon.
fn noise(count: usize) -> Vec<u8> {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[3]
    };
    (0..count).map(|_| next()).collect()
}

/// Sends in pieces of odd sizes, and hears the rest of the answers.
fn exchange(stream: &TcpStream, bytes: &[u8]) -> Vec<u8> {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut rest, mut size) = (bytes, 1);
            while !rest.is_empty() {
                let (now, later) = rest.split_at(size.min(rest.len()));
                (&mut &*stream).write_all(now).unwrap();
                (rest, size) = (later, size * 7 % 100_003 + 1);
            }
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut answer = Vec::new();
        (&mut &*stream).read_to_end(&mut answer).unwrap();
        answer
    })
}

#[test]
fn an_answer_takes_the_round_trip_and_hardly_more() {
    let line = Line::start(echo(), Shape::default());
    let mut stream = connect(&line);
    ask(&mut stream);
    let alone = quickest(&mut stream, 200);
    assert!(alone < Duration::from_millis(2), "{alone:?}");
    for ms in [10, 40] {
        line.reshape(Shape::rtt_ms(ms));
        let took = quickest(&mut stream, 8);
        let ideal = Duration::from_millis(ms);
        assert!(took >= ideal && took < ideal + Duration::from_millis(15), "{ms}: {took:?}");
    }
}

#[test]
fn a_handshake_takes_a_round_trip_of_its_own() {
    let line = Line::start(echo(), Shape::rtt_ms(50));
    let begun = Instant::now();
    ask(&mut connect(&line));
    // The client writes at once here; a real one would first wait for the handshake that the line makes up for.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(100), "{took:?}");
}

#[test]
fn every_byte_arrives_once_and_in_order() {
    for shape in [Shape::default(), Shape::rtt_ms(20), Shape::rtt_ms(5).mbit(400)] {
        let line = Line::start(echo(), shape);
        let bytes = noise(5_000_001);
        let answer = exchange(&connect(&line), &bytes);
        assert!(answer == bytes, "{shape:?}: {} of {} bytes", answer.len(), bytes.len());
        assert_eq!((line.bytes_up(), line.bytes_down()), (5_000_001, 5_000_001));
        assert_eq!(line.connections(), 1);
    }
}

#[test]
fn a_rate_is_kept() {
    let (addr, heard) = listener();
    let line = Line::start(addr, Shape::default().mbit(80));
    let begun = Instant::now();
    let mut stream = connect(&line);
    stream.write_all(&noise(4_000_000)).unwrap();
    drop(stream);
    assert_eq!(heard.join().unwrap().0.len(), 4_000_000);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(395) && took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_cut_is_a_reset_on_both_sides_and_the_next_connection_works() {
    let (addr, heard) = listener();
    let line = Line::start(addr, Shape::default());
    let mut stream = connect(&line);
    stream.write_all(b"before").unwrap();
    crate::eventually("six bytes", Duration::from_secs(5), || line.bytes_up() == 6);
    line.cut();
    let mine = stream.read(&mut [0]).unwrap_err().kind();
    assert_eq!(mine, ErrorKind::ConnectionReset);
    assert_eq!(heard.join().unwrap(), (b"before".to_vec(), Some(ErrorKind::ConnectionReset)));

    let line = Line::start(echo(), Shape::default());
    let mut first = connect(&line);
    line.cut();
    assert_eq!(first.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    ask(&mut connect(&line));
}

#[test]
fn a_cut_after_some_bytes_comes_after_exactly_those() {
    for count in [1, 70_001, 1_000_000] {
        let (addr, heard) = listener();
        let line = Line::start(addr, Shape::rtt_ms(2));
        line.cut_after(count as u64, Direction::Up);
        let bytes = noise(1_500_000);
        // The reset may come while the client still writes.
        let _ = connect(&line).write_all(&bytes);
        let (got, end) = heard.join().unwrap();
        assert_eq!(end, Some(ErrorKind::ConnectionReset));
        assert_eq!((line.bytes_up(), line.pending()), (count as u64, false));
        assert!(got == bytes[..got.len()] && got.len() <= count, "{} of {count}", got.len());
    }
}

#[test]
fn a_black_hole_tells_nobody_and_loses_nothing() {
    let line = Line::start(echo(), Shape::default());
    let bytes = noise(3_000_000);
    line.strike_after(1_234_567, Direction::Down, Fault::BlackHole);
    let stream = connect(&line);
    let lifted = std::thread::scope(|scope| {
        let answer = scope.spawn(|| exchange(&stream, &bytes));
        crate::eventually("the hole", Duration::from_secs(10), || !line.pending());
        let before = line.bytes_down();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((before, line.bytes_down()), (1_234_567, 1_234_567));
        assert!(!answer.is_finished());
        line.heal();
        answer.join().unwrap()
    });
    assert!(lifted == bytes, "{} of {} bytes", lifted.len(), bytes.len());
}

#[test]
fn a_link_that_is_down_refuses_until_it_is_up_again() {
    let line = Line::start(echo(), Shape::default());
    let mut stream = connect(&line);
    line.strike(Fault::Down);
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    for _ in 0..3 {
        let refused = TcpStream::connect(line.addr()).unwrap_err().kind();
        assert_eq!(refused, ErrorKind::ConnectionRefused);
    }
    line.heal();
    ask(&mut connect(&line));
}

#[test]
fn an_end_of_one_direction_leaves_the_other_open() {
    let (addr, heard) = listener();
    let line = Line::start(addr, Shape::rtt_ms(10));
    let mut stream = connect(&line);
    stream.write_all(b"all of it").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(heard.join().unwrap(), (b"all of it".to_vec(), None));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}
