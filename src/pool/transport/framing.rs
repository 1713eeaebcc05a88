//! How the body of an answer ends, followed byte by byte without touching it.
//!
//! awc decodes the body itself. This counts along, to know two things that awc does not tell: whether an end of the
//! stream cuts the body, and whether bytes followed it that nobody asked for.

/// How a body ends, and how much of it is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After this many more bytes.
    Length(u64),
    /// With the last chunk.
    Chunked(Chunks),
    /// With the connection.
    ToEof,
}

/// Where in chunked framing the next byte stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    /// In a size, of this value so far; the flag says whether a digit was seen.
    Size(u64, bool),
    /// Behind the digits of this size, in an extension.
    Extension(u64),
    /// In a chunk with this much to come.
    Data(u64),
    /// Behind a chunk.
    DataEnd,
    /// In the lines behind the last chunk; the flag says whether the line is empty so far.
    Trailer(bool),
    /// Behind the return that ends such a line.
    Return(Line),
    /// Behind the end.
    End,
    /// Not in chunked framing: the body has failed, and the connection is of no use.
    Lost,
}

/// A line of chunked framing. A line feed alone ends none: awc would in places read on and wait for what never comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// That says this size.
    Size(u64),
    /// Behind a chunk.
    Data,
    /// A trailer; the flag says whether it is the empty line behind the last.
    Trailer(bool),
}

impl Framing {
    /// A chunked body from its start.
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunks::Size(0, false))
    }

    /// Takes the body's next bytes. `false` when they are more than the body has, or not what it must be: then the
    /// connection must carry nothing else.
    #[must_use]
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Length(left) => {
                let have = bytes.len() as u64;
                let fits = have <= *left;
                *left = left.saturating_sub(have);
                fits
            }
            Self::Chunked(at) => at.take(bytes),
            Self::ToEof => true,
        }
    }

    /// Whether these are not the chunks they must be.
    pub(super) fn lost(&self) -> bool {
        matches!(self, Self::Chunked(Chunks::Lost))
    }

    /// Whether the body is complete; a body to the end of the stream never is before it.
    pub(super) fn complete(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks::End))
    }
}

impl Chunks {
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let Self::Data(left) = self {
                // The only long stretch: skipped as a whole.
                let skip = (*left).min(bytes.len() as u64);
                *left -= skip;
                let done = *left == 0;
                bytes = &bytes[skip as usize..];
                if done {
                    *self = Self::DataEnd;
                }
                continue;
            }
            *self = match (&*self, byte) {
                (Self::End, _) => return false,
                (Self::Size(size, true) | Self::Extension(size), b'\r') => Self::Return(Line::Size(*size)),
                (Self::Size(size, true), b';' | b' ' | b'\t') => Self::Extension(*size),
                (Self::Size(size, _), _) => match (char::from(byte).to_digit(16), size.checked_mul(16)) {
                    (Some(digit), Some(size)) => Self::Size(size + u64::from(digit), true),
                    _ => Self::Lost,
                },
                (Self::Extension(size), _) if byte != b'\n' => Self::Extension(*size),
                (Self::DataEnd, b'\r') => Self::Return(Line::Data),
                (Self::Trailer(is_empty), b'\r') => Self::Return(Line::Trailer(*is_empty)),
                (Self::Trailer(_), _) if byte != b'\n' => Self::Trailer(false),
                (Self::Return(line), b'\n') => line.next(),
                _ => Self::Lost,
            };
            bytes = rest;
        }
        !matches!(self, Self::Lost)
    }
}

impl Line {
    /// Where its end leads.
    fn next(&self) -> Chunks {
        match self {
            Self::Size(0) | Self::Trailer(false) => Chunks::Trailer(true),
            Self::Size(size) => Chunks::Data(*size),
            Self::Data => Chunks::Size(0, false),
            Self::Trailer(true) => Chunks::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_followed_through_every_split() {
        let body = b"4\r\nabcd\r\n0A;ext=1\r\n0123456789\r\n0\r\nx: y\r\n\r\n";
        for at in 0..=body.len() {
            let mut framing = Framing::chunked();
            assert!(framing.take(&body[..at]));
            assert_eq!(framing.complete(), at == body.len(), "at {at}");
            assert!(framing.take(&body[at..]));
            assert!(framing.complete());
            assert!(!framing.take(b"H"), "a byte too many");
        }
    }

    #[test]
    fn bytes_beyond_a_length_are_told() {
        let mut framing = Framing::Length(5);
        assert!(framing.take(b"abc") && !framing.complete());
        assert!(!framing.take(b"def") && framing.complete());
    }

    #[test]
    fn broken_chunks_are_never_complete() {
        for body in [
            "x\r\n",
            "\r\n",
            "3\r\nabcd\r\n",
            "fffffffffffffffff\r\n",
            "3\nabc",
            "3;x\n",
            "3\r\nabc\n",
            "0\r\n\n",
            "0\r\nx: y\n",
            "0\r\n\r\r\n",
        ] {
            let mut framing = Framing::chunked();
            assert!(!framing.take(body.as_bytes()), "{body:?}");
            assert!(!framing.complete() && framing.lost());
        }
    }
}
