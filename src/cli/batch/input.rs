//! The lines of IN: one at a time, whatever its size. Of what is in memory the longest line is the bound.

use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Lines on their way from the thread that reads them. Few: each may be of the largest size.
const ON_THE_WAY: usize = 4;

/// Read from IN at once.
const BUFFER_BYTES: usize = 256 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line that is not blank, by its number in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// From 1 on; blank lines count.
    pub(super) number: u64,
    /// Without its end; `None` when it is too long to be kept.
    pub(super) bytes: Option<Bytes>,
}

/// Reads lines of at most `max` bytes. A byte order mark, CRLF, blank lines and a last line without its end are all right.
pub(super) struct Lines<R> {
    source: R,
    number: u64,
    max: usize,
}

impl<R: Read> Lines<BufReader<R>> {
    pub(super) fn new(source: R, max: usize) -> Self {
        Self { source: BufReader::with_capacity(BUFFER_BYTES, source), number: 0, max }
    }
}

impl<R: BufRead> Lines<R> {
    /// The next line of any kind; `None` at the end.
    fn step(&mut self) -> io::Result<Option<Line>> {
        let (mut line, mut too_long) = (Vec::new(), false);
        loop {
            let piece = match self.source.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                piece => piece?,
            };
            let end = memchr::memchr(b'\n', piece);
            let is_over = piece.is_empty();
            let (part, used) = end.map_or((piece, piece.len()), |end| (&piece[..end], end + 1));
            too_long |= line.len() + part.len() > self.max;
            if too_long {
                line = Vec::new();
            } else {
                line.extend_from_slice(part);
            }
            self.source.consume(used);
            if is_over && line.is_empty() && !too_long {
                return Ok(None);
            }
            if is_over || end.is_some() {
                break;
            }
        }
        self.number += 1;
        let mut bytes = Bytes::from(line);
        if self.number == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes = bytes.slice(BYTE_ORDER_MARK.len()..);
        }
        if bytes.ends_with(b"\r") {
            bytes.truncate(bytes.len() - 1);
        }
        Ok(Some(Line { number: self.number, bytes: (!too_long).then_some(bytes) }))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<io::Result<Line>> {
        loop {
            match self.step() {
                Ok(Some(Line { bytes: Some(bytes), .. })) if bytes.trim_ascii().is_empty() => {}
                step => return step.transpose(),
            }
        }
    }
}

/// The lines of `source`, read on a thread of their own: what makes the reader wait must keep nobody else waiting.
///
/// # Errors
/// The system gives no thread.
pub(super) fn feed(source: impl Read + Send + 'static, max: usize) -> io::Result<mpsc::Receiver<io::Result<Line>>> {
    let (send, lines) = mpsc::channel(ON_THE_WAY);
    let read = move || {
        for line in Lines::new(source, max) {
            let is_last = line.is_err();
            if send.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    };
    std::thread::Builder::new().name("forebay-input".into()).spawn(read)?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], max: usize, piece: usize) -> Vec<(u64, Option<String>)> {
        let source = BufReader::with_capacity(piece, text);
        let lines = Lines { source, number: 0, max }.map(Result::unwrap);
        lines.map(|line| (line.number, line.bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()))).collect()
    }

    fn some(number: u64, text: &str) -> (u64, Option<String>) {
        (number, Some(text.to_owned()))
    }

    #[test]
    fn lines_come_as_they_are_however_the_file_is_cut_and_whatever_ends_them() {
        for piece in 1..20 {
            assert_eq!(
                lines(b"\xef\xbb\xbf{\"a\":1}\r\nb\n\n \t\r\nc", 100, piece),
                [some(1, "{\"a\":1}"), some(2, "b"), some(5, "c")]
            );
            assert_eq!(lines(b"a\n", 100, piece), [some(1, "a")]);
            assert_eq!(lines(b"", 100, piece), []);
            assert_eq!(lines(b"\n\n\xef\xbb\xbf", 100, piece), [some(3, "\u{feff}")], "a mark belongs in front");
        }
    }

    #[test]
    fn a_line_beyond_the_bound_is_passed_over_and_known_by_its_number() {
        for piece in 1..20 {
            assert_eq!(
                lines(b"aaaa\nbbbbb\nc\ndddddddd", 4, piece),
                [some(1, "aaaa"), (2, None), some(3, "c"), (4, None)]
            );
        }
    }

    #[test]
    fn what_cannot_be_read_ends_the_feed_with_an_error() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let source = io::Cursor::new("a\nb\n").chain(Broken);
        let mut lines = feed(source, 10).unwrap();
        let said: Vec<_> = std::iter::from_fn(|| lines.blocking_recv()).map(|line| line.is_ok()).collect();
        assert_eq!(said, [true, true, false]);
    }
}
