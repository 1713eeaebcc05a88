//! A fault of a wire: what a peer says and does, and what its caller must hear.

use std::io;

use super::own::Own;
use crate::pool::transport::tests::peer::Conn;

/// Not asked for in this form.
pub(super) const NEVER: &str = "";

/// In what a peer says: what comes before has arrived before what comes after is written.
pub(super) const LATER: &str = "\u{1f}";

/// What a peer does when it has said what it says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Answers the next request as if nothing had been.
    GoOn,
    /// Closes as it should: over TLS with close_notify.
    Close,
    /// Just ends: a bare FIN.
    Fin,
    Reset,
    /// Neither reads nor writes nor closes.
    Hold,
}

/// A fault, and what it comes to.
pub(super) struct Fault {
    pub(super) name: &'static str,
    says: fn(&Own) -> String,
    then: Then,
    /// One byte in each write, each record of TLS.
    bytewise: bool,
    /// Past TLS.
    below: bool,
    /// The request is large, and its body is left unread.
    pub(super) is_early: bool,
    /// What the caller of a whole answer hears, and the caller of a stream.
    heard: [&'static str; 2],
    heard_over_tls: [&'static str; 2],
}

/// A fault that is heard the same over TCP and over TLS.
pub(super) fn row(
    name: &'static str,
    says: fn(&Own) -> String,
    then: Then,
    whole: &'static str,
    stream: &'static str,
) -> Fault {
    let heard = [whole, stream];
    Fault { name, says, then, bytewise: false, below: false, is_early: false, heard, heard_over_tls: heard }
}

impl Fault {
    /// TLS tells what TCP cannot.
    pub(super) fn over_tls(self, whole: &'static str, stream: &'static str) -> Self {
        Self { heard_over_tls: [whole, stream], ..self }
    }

    pub(super) fn bytewise(self) -> Self {
        Self { bytewise: true, ..self }
    }

    /// What is said after the first pause goes past TLS.
    pub(super) fn below(self) -> Self {
        Self { below: true, ..self }
    }

    pub(super) fn early(self) -> Self {
        Self { is_early: true, ..self }
    }

    /// What must be heard.
    pub(super) fn heard(&self, tls: bool, is_stream: bool) -> &'static str {
        (if tls { self.heard_over_tls } else { self.heard })[usize::from(is_stream)]
    }

    /// Does it.
    pub(super) fn befall(&self, conn: &mut Conn, own: &Own) -> io::Result<bool> {
        for (n, piece) in (self.says)(own).split(LATER).enumerate() {
            if n > 0 {
                conn.pause();
            }
            if self.bytewise {
                piece.bytes().try_for_each(|byte| conn.say([byte]))?;
            } else if self.below && n > 0 {
                conn.say_below(piece)?;
            } else if !piece.is_empty() {
                conn.say(piece)?;
            }
        }
        match self.then {
            Then::GoOn => return Ok(true),
            Then::Close => conn.finish()?,
            Then::Fin => conn.fin()?,
            Then::Reset => conn.reset()?,
            Then::Hold => false,
        };
        if self.then == Then::Hold {
            conn.hold();
        } else if self.then == Then::Reset || self.is_early {
            conn.pause(); // what was said arrives before the end of it
        }
        Ok(false)
    }
}
