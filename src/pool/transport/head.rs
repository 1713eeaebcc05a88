//! Heads of answers: where one ends, and how the body behind it ends.
//!
//! awc parses every head again; this reads it the same way (line ends, lenient names), but knows what awc's parser
//! gets wrong, and mends the head in place so that awc reads the body as it is.

use super::framing::Framing;

/// The largest head taken, interim heads before it included: a little below what awc refuses itself.
pub(super) const HEAD_CAP: usize = 128 * 1024 - 1;

/// Why an answer is not HTTP that we take. The text is for logs and holds nothing of what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

impl From<Broken> for std::io::Error {
    fn from(broken: Broken) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, broken)
    }
}

/// A whole head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// A 1xx, of this many bytes: not the answer.
    Interim(usize),
    /// The answer's.
    Final {
        /// Its length in bytes, the empty line included.
        len: usize,
        /// What it says.
        status: u16,
        /// How the body ends.
        body: Framing,
        /// Whether the connection may carry another exchange, as far as the head tells.
        reusable: bool,
    },
}

/// Looks for a head's end in bytes that arrive in pieces, each byte once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    /// Where the line begins that has not ended yet.
    line: usize,
    /// How far was looked.
    seen: usize,
}

impl Scan {
    /// Whether nothing was looked at yet.
    pub(super) fn fresh(&self) -> bool {
        self.seen == 0
    }

    /// The length of the head that `bytes` begin with, or `None` while its end is not there.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(found) = memchr::memchr(b'\n', &bytes[self.seen..]) {
            let line = &bytes[self.line..self.seen + found];
            self.seen += found + 1;
            self.line = self.seen;
            if matches!(line, b"" | b"\r") {
                return Some(self.seen);
            }
        }
        self.seen = bytes.len();
        None
    }
}

/// Reads the head that `bytes` begin with; `None` while it is not whole. A final head may be changed in place, never in
/// length. Garbage is refused as soon as it can be told, so that it need not fill the cap first.
pub(super) fn examine(bytes: &mut [u8], scan: &mut Scan) -> Result<Option<Head>, Broken> {
    let status = status_line(bytes)?;
    let Some(len) = scan.end(bytes) else {
        return if bytes.len() > HEAD_CAP { Err(Broken("an answer's head of more than 128 KiB")) } else { Ok(None) };
    };
    match status {
        Some((_, 101)) => Err(Broken("an answer that switches protocols unasked")),
        Some((_, 100..200)) => Ok(Some(Head::Interim(len))),
        Some((minor, status)) => {
            let (body, reusable) = mend(&mut bytes[..len], minor, status)?;
            Ok(Some(Head::Final { len, status, body, reusable }))
        }
        None => Err(Broken("not an HTTP answer")), // a line ended before a status
    }
}

/// Minor version and status, once they are there.
fn status_line(bytes: &[u8]) -> Result<Option<(u8, u16)>, Broken> {
    const FORM: &[u8] = b"HTTP/1.v ddd";
    for (&have, &form) in bytes.iter().zip(FORM) {
        let fits = match form {
            b'v' => matches!(have, b'0' | b'1'),
            b'd' => have.is_ascii_digit(),
            form => have == form,
        };
        if !fits {
            return Err(Broken("not an HTTP answer"));
        }
    }
    let Some(&after) = bytes.get(FORM.len()) else { return Ok(None) };
    if !matches!(after, b' ' | b'\r' | b'\n') {
        return Err(Broken("not an HTTP answer"));
    }
    let status = bytes[9..12].iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
    Ok(Some((bytes[7] - b'0', status)))
}

/// What the headers of a final head say of its body; cures what awc would read wrongly.
fn mend(head: &mut [u8], minor: u8, status: u16) -> Result<(Framing, bool), Broken> {
    let has_no_body = matches!(status, 204 | 304); // whatever its head says
    let (mut length, mut encoded, mut chunked) = (None, false, false);
    let mut start = 0;
    while start < head.len() {
        let end = memchr::memchr(b'\n', &head[start..]).map_or(head.len(), |n| start + n);
        let line = &mut head[start..end];
        start = end + 1;
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let (name, value) = (line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii());
        let frames = name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding");
        if name.eq_ignore_ascii_case(b"content-length") {
            // What does not parse, or comes twice, is refused by awc.
            length = std::str::from_utf8(value).ok().and_then(|value| value.parse::<u64>().ok());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            encoded = true;
            chunked |= value.eq_ignore_ascii_case(b"chunked");
            if !chunked && !value.eq_ignore_ascii_case(b"identity") {
                // Nobody here could read it, and awc would not even refuse it where it reads to the end.
                return Err(Broken("an answer in a transfer encoding that was not asked for"));
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            // awc takes "upgrade: websocket" on a 426 for a body without a length and drops it.
            line[0] = b'-';
        }
        if has_no_body && frames {
            line[0] = b'-'; // awc would wait for the body
        }
    }
    if encoded && minor == 0 {
        return Err(Broken("an HTTP/1.0 answer with a transfer encoding"));
    }
    let body = match length {
        _ if has_no_body => Framing::Length(0),
        _ if chunked => Framing::chunked(),
        Some(n) => Framing::Length(n),
        None => Framing::ToEof,
    };
    // Without a length awc reads nothing from HTTP/1.1 and keeps the connection with the body still in it, but reads
    // HTTP/1.0 to its end and closes. So the version says what is meant.
    match body {
        Framing::ToEof => head[7] = b'0',
        Framing::Length(0) => head[7] = b'1',
        _ => {}
    }
    // HTTP/1.0 closes unless agreed otherwise; a length beside chunks is how answers get smuggled.
    // A peer that says 408 or 413 may not have read the request, nor mean to. One that frames a body where there is none
    // may send it all the same.
    let is_ambiguous = (chunked && length.is_some()) || (has_no_body && (chunked || length.is_some_and(|n| n > 0)));
    let reusable = minor == 1 && body != Framing::ToEof && !is_ambiguous && !matches!(status, 408 | 413);
    Ok((body, reusable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Result<Option<Head>, Broken>, String) {
        let mut bytes = text.as_bytes().to_vec();
        let read = examine(&mut bytes, &mut Scan::default());
        (read, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_body_is_framed_as_the_head_says() {
        for (text, body, reusable, version) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", Framing::Length(7), true, "HTTP/1.1"),
            ("HTTP/1.1 200 OK\nCONTENT-LENGTH : 7 \n\n", Framing::Length(7), true, "HTTP/1.1"),
            ("HTTP/1.1 200\r\ntransfer-encoding: Chunked\r\n\r\n", Framing::chunked(), true, "HTTP/1.1"),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
                Framing::chunked(),
                false,
                "HTTP/1.1",
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Length(0), true, "HTTP/1.1"),
            ("HTTP/1.1 204 X\r\ncontent-length: 0\r\n\r\n", Framing::Length(0), true, "HTTP/1.1"),
            ("HTTP/1.1 204 X\r\ncontent-length: 2\r\n\r\n", Framing::Length(0), false, "HTTP/1.1"),
            ("HTTP/1.1 304 X\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Length(0), false, "HTTP/1.1"),
            ("HTTP/1.1 413 X\r\ncontent-length: 2\r\n\r\n", Framing::Length(2), false, "HTTP/1.1"),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::ToEof, false, "HTTP/1.0"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n", Framing::ToEof, false, "HTTP/1.0"),
            ("HTTP/1.0 200 OK\r\n\r\n", Framing::ToEof, false, "HTTP/1.0"),
            ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", Framing::Length(0), false, "HTTP/1.1"),
            ("HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\n", Framing::Length(4), false, "HTTP/1.0"),
        ] {
            let (read, after) = read(text);
            let Ok(Some(Head::Final { len, body: is, reusable: may, .. })) = read else { panic!("{text}: {read:?}") };
            assert_eq!((len, is, may), (text.len(), body, reusable), "{text}");
            assert!(after.starts_with(version), "{after}");
        }
    }

    #[test]
    fn interim_heads_are_told_from_final_ones() {
        let text = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(read(text).0, Ok(Some(Head::Interim(40))));
        assert!(matches!(read("HTTP/1.1 101 Switching Protocols\r\n\r\n").0, Err(Broken(_))));
    }

    #[test]
    fn garbage_is_refused_before_its_line_ends() {
        for text in ["SSH-2.0", "HTTP/2", "HTTP/1.1  200", "HTTP/1.1 2x", "HTTP/1.1 2000", "HTTP/1.1 20\r", "<html>"] {
            assert_eq!(read(text).0, Err(Broken("not an HTTP answer")), "{text}");
        }
    }

    #[test]
    fn a_head_without_end_is_refused() {
        let text = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_CAP));
        assert!(matches!(read(&text).0, Err(Broken(_))));
    }

    #[test]
    fn an_upgrade_header_is_blotted_out() {
        let (read, after) = read("HTTP/1.1 426 Upgrade\r\nUpgrade: websocket\r\ncontent-length: 2\r\n\r\n");
        assert!(matches!(read, Ok(Some(Head::Final { body: Framing::Length(2), .. }))));
        assert!(after.contains("-pgrade: websocket"));
    }

    #[test]
    fn a_head_is_found_one_byte_at_a_time() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        let (mut scan, mut bytes) = (Scan::default(), Vec::new());
        for (i, byte) in text.iter().enumerate() {
            bytes.push(*byte);
            let whole = examine(&mut bytes, &mut scan).unwrap().is_some();
            assert_eq!(whole, i + 1 == text.len() - 3, "at byte {i}");
            if whole {
                break;
            }
        }
    }
}
