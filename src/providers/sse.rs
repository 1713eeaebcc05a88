//! Server-sent events, cut out of a stream of chunks as they come.
//!
//! Every byte is looked at once, however it is chunked, and an event that lies within one chunk is a slice of it.
//! What ends an event is decided by the bytes alone and at once: no event waits for the chunk behind it.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// An event grew beyond the limit: the stream cannot be followed any further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TooLarge;

/// A block of lines up to and including its blank line: an event, or mere comments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    raw: Bytes,
    name: Option<Range<usize>>,
    /// The value of the only `data` line, or of the first.
    data: Option<Range<usize>>,
    has_more_data: bool,
}

impl Event {
    fn new(raw: Bytes) -> Self {
        let (mut name, mut data, mut has_more_data) = (None, None, false);
        for (field, value) in fields(&raw) {
            match &raw[field] {
                b"event" => name = Some(value),
                b"data" if data.is_none() => data = Some(value),
                b"data" => has_more_data = true,
                _ => {}
            }
        }
        Self { raw, name, data, has_more_data }
    }

    /// The event as it came, its blank line included. Only a blank line that was a bare CR has got an LF, so that
    /// whether a CRLF was torn apart makes no difference.
    pub(crate) fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// What its `event:` line says, if there is one that says something.
    pub(crate) fn name(&self) -> Option<&str> {
        let name = self.raw.get(self.name.clone()?)?;
        std::str::from_utf8(name).ok().filter(|name| !name.is_empty())
    }

    /// Its `data:` lines, joined by LF. Borrowed where there is one line, as nearly always.
    pub(crate) fn data(&self) -> Cow<'_, [u8]> {
        let Some(first) = &self.data else { return Cow::Borrowed(b"") };
        if !self.has_more_data {
            return Cow::Borrowed(&self.raw[first.clone()]);
        }
        let lines = fields(&self.raw).filter(|(field, _)| &self.raw[field.clone()] == b"data");
        let lines: Vec<&[u8]> = lines.map(|(_, value)| &self.raw[value]).collect();
        Cow::Owned(lines.join(&b'\n'))
    }

    /// [`Event::data`] as shared bytes: a slice of the event where it is one line.
    pub(crate) fn data_bytes(&self) -> Bytes {
        match (&self.data, self.has_more_data) {
            (Some(line), false) => self.raw.slice(line.clone()),
            _ => Bytes::from(self.data().into_owned()),
        }
    }
}

/// The fields of a block of lines: where each name and its value stand. Comments and blank lines are left out.
fn fields(raw: &[u8]) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < raw.len() {
            let start = at;
            let end = line_end(&raw[start..]).map_or(raw.len(), |length| start + length);
            at = end + 1;
            let line = &raw[start..end];
            match line.iter().position(|byte| *byte == b':') {
                Some(0) => {}
                None if line.is_empty() => {}
                None => return Some((start..end, end..end)),
                Some(colon) => {
                    let value = start + colon + 1;
                    let value = if raw.get(value) == Some(&b' ') { value + 1 } else { value };
                    return Some((start..start + colon, value..end));
                }
            }
        }
        None
    })
}

fn is_line_end(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

/// Where the first line end stands.
fn line_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr2(b'\n', b'\r', bytes)
}

/// Cuts a stream into events.
#[derive(Debug)]
pub(crate) struct SseParser {
    max_event_bytes: usize,
    /// Bytes that no event has been cut from yet; those before `looked_at` hold no event's end.
    chunk: Bytes,
    looked_at: usize,
    /// The beginning of an event whose end is not in the chunks before this one.
    partial: BytesMut,
    line: Line,
    /// The byte before was a CR: an LF now belongs to it.
    after_cr: bool,
    /// A byte order mark may still come.
    at_start: bool,
    failed: bool,
}

/// Where in a block the parser is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    /// Before its first line: line ends here are no blank line of any event.
    BeforeFirst,
    /// Within a line.
    Inside,
    /// At the start of a line that is not the first: a line end now is the blank line.
    Start,
}

/// What lies ahead in the chunk.
enum Cut {
    /// The event ends before this offset.
    At(usize),
    /// It ends before this offset with a CR whose LF, if it has one, is not here: one is to be added.
    AtBareCr(usize),
    Nowhere,
}

impl SseParser {
    /// A parser at the start of a stream. Events of more than `max_event_bytes` are refused.
    pub(crate) fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes,
            chunk: Bytes::new(),
            looked_at: 0,
            partial: BytesMut::new(),
            line: Line::BeforeFirst,
            after_cr: false,
            at_start: true,
            failed: false,
        }
    }

    /// Takes what came next. Best called when [`SseParser::next`] has nothing more: then nothing is copied here.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
            self.looked_at = 0;
        } else if !chunk.is_empty() {
            self.chunk = [std::mem::take(&mut self.chunk), chunk].concat().into();
        }
    }

    /// The next whole event; `None` until more is pushed, and for ever behind a [`TooLarge`].
    #[allow(clippy::should_implement_trait)] // not an iterator: a `None` is followed by events once more has come
    pub(crate) fn next(&mut self) -> Option<Result<Event, TooLarge>> {
        if self.failed {
            return None;
        }
        self.skip_line_ends();
        let cut = self.find_cut();
        let length = self.partial.len()
            + match cut {
                // A CRLF counts like a bare CR, whose LF is not known yet when it is counted.
                Cut::At(end) => end - usize::from(self.chunk[..end].ends_with(b"\r\n")),
                Cut::AtBareCr(end) => end,
                Cut::Nowhere => self.chunk.len(),
            };
        if length > self.max_event_bytes {
            self.failed = true;
            self.chunk = Bytes::new();
            self.partial = BytesMut::new();
            return Some(Err(TooLarge));
        }
        let (end, lacks_lf) = match cut {
            Cut::At(end) => (end, false),
            Cut::AtBareCr(end) => (end, true),
            Cut::Nowhere => {
                self.partial.extend_from_slice(&std::mem::take(&mut self.chunk));
                self.looked_at = 0;
                return None;
            }
        };
        let tail = self.chunk.split_to(end);
        self.looked_at = 0;
        self.line = Line::BeforeFirst;
        let mut raw = if self.partial.is_empty() && !lacks_lf {
            tail
        } else {
            self.partial.extend_from_slice(&tail);
            if lacks_lf {
                self.partial.extend_from_slice(b"\n");
            }
            self.partial.split().freeze()
        };
        if std::mem::take(&mut self.at_start) && raw.starts_with(b"\xef\xbb\xbf") {
            raw = raw.slice(3..);
        }
        Some(Ok(Event::new(raw)))
    }

    /// Whether bytes of an event that has not ended are held: at the stream's end, it was cut.
    pub(crate) fn pending(&self) -> bool {
        self.failed || !self.partial.is_empty() || self.chunk.iter().any(|byte| !is_line_end(*byte))
    }

    /// Lets go of line ends before an event's first line. The LF of a torn CRLF is among them.
    fn skip_line_ends(&mut self) {
        if self.line == Line::BeforeFirst && self.partial.is_empty() && self.looked_at == 0 {
            let ends = self.chunk.iter().take_while(|byte| is_line_end(**byte)).count();
            if ends > 0 {
                let _ = self.chunk.split_to(ends);
                self.after_cr = false;
            }
        }
    }

    /// Looks for the end of the event, from where the last look ended.
    fn find_cut(&mut self) -> Cut {
        while let Some(rest) = self.chunk.get(self.looked_at..).filter(|rest| !rest.is_empty()) {
            let byte = rest[0];
            if byte == b'\n' && std::mem::take(&mut self.after_cr) {
                // The second half of a line end that has been seen already.
                self.looked_at += 1;
                continue;
            }
            if !is_line_end(byte) {
                self.after_cr = false;
                self.line = Line::Inside;
                self.looked_at += line_end(rest).unwrap_or(rest.len());
                continue;
            }
            self.looked_at += 1;
            self.after_cr = byte == b'\r';
            match (self.line, byte, rest.get(1)) {
                (Line::BeforeFirst, _, _) => {}
                (Line::Inside, _, _) => self.line = Line::Start,
                (Line::Start, b'\n', _) => return Cut::At(self.looked_at),
                (Line::Start, _, Some(b'\n')) => {
                    self.after_cr = false;
                    return Cut::At(self.looked_at + 1);
                }
                (Line::Start, _, _) => return Cut::AtBareCr(self.looked_at),
            }
        }
        Cut::Nowhere
    }
}

#[cfg(test)]
mod tests;
