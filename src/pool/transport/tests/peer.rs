//! A scripted peer on loopback: blocking threads, so that what it does to the wire is exactly what it says.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A listening peer; its threads end with it.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Connections accepted.
    pub(crate) connections: Arc<AtomicUsize>,
    /// What `Conn::hold` waits for: dropped with the peer.
    _held: Sender<()>,
}

impl Peer {
    /// Answers each request with `script`; the connection closes when that says `false`.
    pub(crate) fn start(
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&mut Conn, &Asked) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (held, hold) = channel();
        let (script, hold, counted) = (Arc::new(script), Arc::new(Mutex::new(hold)), connections.clone());
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::SeqCst);
                let (script, tls, hold) = (script.clone(), tls.clone(), hold.clone());
                std::thread::spawn(move || {
                    let mut conn = Conn::new(tcp, tls, hold);
                    while let Ok(Some(asked)) = conn.asked() {
                        if !matches!(script(&mut conn, &asked), Ok(true)) {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, connections, _held: held }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A request's head, and its body when it was read.
pub(crate) struct Asked {
    pub(crate) path: String,
    /// What to do about it, where a caller that cannot choose the path says so.
    pub(crate) fault: Option<String>,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

/// One accepted connection.
pub(crate) struct Conn {
    stream: Stream,
    hold: Arc<Mutex<Receiver<()>>>,
}

impl Conn {
    fn new(tcp: TcpStream, tls: Option<Arc<ServerConfig>>, hold: Arc<Mutex<Receiver<()>>>) -> Self {
        tcp.set_nodelay(true).unwrap();
        let stream = match tls {
            None => Stream::Plain(tcp),
            Some(config) => Stream::Tls(Box::new(StreamOwned::new(ServerConnection::new(config).unwrap(), tcp))),
        };
        Self { stream, hold }
    }

    fn io(&mut self) -> &mut dyn ReadWrite {
        match &mut self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls,
        }
    }

    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => &tls.sock,
        }
    }

    /// The next request; the body of one to `/early…`, or with such a fault, stays on the wire.
    fn asked(&mut self) -> io::Result<Option<Asked>> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if self.io().read(&mut byte)? == 0 {
                return Ok(None);
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let said = |name| head.lines().find_map(|line| line.strip_prefix(name));
        let length = said("content-length: ").map_or(0, |n| n.parse().unwrap());
        let fault = said("openai-fault: ").map(str::to_owned);
        let mut body = Vec::new();
        if !path.starts_with("/early") && !fault.as_ref().is_some_and(|fault| fault.starts_with("early")) {
            body.resize(length, 0);
            self.io().read_exact(&mut body)?;
        }
        Ok(Some(Asked { path, fault, head, body }))
    }

    /// In one write, one TLS record.
    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.io().write_all(bytes.as_ref())?;
        self.io().flush()
    }

    /// A 200 with this body.
    pub(crate) fn answer(&mut self, body: impl AsRef<[u8]>) -> io::Result<()> {
        self.say(whole(200, body.as_ref()))
    }

    /// Lets what was said arrive before what comes next. This is the fault itself, not a wait for something.
    pub(crate) fn pause(&self) {
        let (_never, pause) = channel::<()>();
        assert_eq!(pause.recv_timeout(Duration::from_millis(30)), Err(RecvTimeoutError::Timeout));
    }

    /// Does nothing until the test is over.
    pub(crate) fn hold(&self) {
        let _ = self.hold.lock().unwrap().recv();
    }

    /// Whether the other side is gone, waiting for it.
    pub(crate) fn is_left(&mut self) -> bool {
        let mut byte = [0];
        !matches!(self.io().read(&mut byte), Ok(n) if n > 0)
    }

    /// The same, and whether TLS was told.
    pub(crate) fn is_left_cleanly(&mut self) -> bool {
        matches!(self.io().read(&mut [0]), Ok(0))
    }

    /// Closes before the script ends.
    pub(crate) fn close_now(&mut self) {
        let stand_in = TcpListener::bind("127.0.0.1:0").and_then(|l| TcpStream::connect(l.local_addr()?)).unwrap();
        self.stream = Stream::Plain(stand_in);
    }

    /// Whether the handshake resumed an earlier session.
    pub(crate) fn is_resumed(&self) -> bool {
        let Stream::Tls(tls) = &self.stream else { return false };
        tls.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Ends what we say, the clean way: close_notify, then FIN.
    pub(crate) fn finish(&mut self) -> io::Result<bool> {
        if let Stream::Tls(tls) = &mut self.stream {
            tls.conn.send_close_notify();
            tls.flush()?;
        }
        self.tcp().shutdown(Shutdown::Write)?;
        Ok(false)
    }

    /// Past TLS, straight onto the wire.
    pub(crate) fn say_below(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.tcp().write_all(bytes.as_ref())
    }

    /// A bare FIN.
    pub(crate) fn fin(&mut self) -> io::Result<bool> {
        self.tcp().shutdown(Shutdown::Write)?;
        Ok(false)
    }

    /// A reset.
    pub(crate) fn reset(&mut self) -> io::Result<bool> {
        socket2::SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO))?;
        Ok(false)
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A whole answer.
pub(crate) fn whole(status: u16, body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}
