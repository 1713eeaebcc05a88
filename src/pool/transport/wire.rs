//! What bytes travel on: TCP, or TLS over it.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_rt::net::{ActixStream, Ready, TcpStream};
use rustls::ClientConnection;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::strict::Strict;

/// What a watched connection may travel on.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Unpin {
    /// Whether data or an end has arrived that reading does not show yet: that learns of arrivals from the reactor, which
    /// has its turn only now and then on a busy thread.
    fn has_news(&mut self) -> bool;
}

impl Carrier for Wire {
    fn has_news(&mut self) -> bool {
        match self {
            Self::Plain(tcp) => match SockRef::from(&*tcp).peek(&mut [MaybeUninit::uninit()]) {
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
                Ok(_) => true,
            },
            Self::Tls(tls) => {
                let (tcp, session) = tls.get_mut();
                has_news(tcp, session)
            }
        }
    }
}

/// Takes in what is there: TLS says much that is no news, session tickets above all.
fn has_news(tcp: &TcpStream, session: &mut ClientConnection) -> bool {
    let socket = SockRef::from(tcp);
    loop {
        match session.read_tls(&mut &*socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) | Ok(0) => return true,
            Ok(_) => {}
        }
        match session.process_new_packets() {
            Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
            _ => return true,
        }
    }
}

/// A connection to an upstream.
#[derive(Debug)]
pub(super) enum Wire {
    /// As it is.
    Plain(TcpStream),
    /// Encrypted. Boxed: a kilobyte of state, that a plain connection need not carry.
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! on_either {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain(io) => {
                let $io = Pin::new(io);
                $call
            }
            Self::Tls(io) => {
                let $io = Pin::new(io);
                $call
            }
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_either!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_either!(self, io => io.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, io => io.poll_shutdown(cx))
    }
}

/// awc asks for this trait and never calls it on the way taken here.
impl<T: Carrier> ActixStream for Strict<T> {
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        Poll::Ready(Ok(Ready::ALL))
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        Poll::Ready(Ok(Ready::ALL))
    }
}
