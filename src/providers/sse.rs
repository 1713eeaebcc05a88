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

    /// Whether there is no data: clients are told nothing of such an event, and some break on it.
    pub(crate) fn is_empty(&self) -> bool {
        self.data.as_ref().is_none_or(Range::is_empty) && !self.has_more_data
    }
}

/// The fields of a block of lines: where each name and its value stand. Comments and blank lines are left out.
fn fields(raw: &[u8]) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < raw.len() {
            let start = at;
            let end =
                raw[start..].iter().position(|byte| is_line_end(*byte)).map_or(raw.len(), |length| start + length);
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
                self.looked_at += rest.iter().position(|byte| is_line_end(*byte)).unwrap_or(rest.len());
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All events of `chunks`: name, data, raw.
    fn parse(chunks: &[&[u8]]) -> (Vec<(Option<String>, String, Bytes)>, bool) {
        let mut parser = SseParser::new(1 << 20);
        let mut events = Vec::new();
        for chunk in chunks {
            parser.push(Bytes::copy_from_slice(chunk));
            while let Some(event) = parser.next() {
                let event = event.unwrap();
                let data = String::from_utf8_lossy(&event.data()).into_owned();
                events.push((event.name().map(str::to_owned), data, event.raw().clone()));
            }
        }
        (events, parser.pending())
    }

    fn data(stream: &str) -> Vec<String> {
        parse(&[stream.as_bytes()]).0.into_iter().map(|(_, data, _)| data).collect()
    }

    #[test]
    fn all_three_line_ends_mean_the_same() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = "event: a|data: 1|data:2||: hi||data: 3||".replace('|', end);
            let (events, pending) = parse(&[stream.as_bytes()]);
            let seen: Vec<_> = events.iter().map(|(name, data, _)| (name.as_deref(), data.as_str())).collect();
            assert_eq!(seen, [(Some("a"), "1\n2"), (None, ""), (None, "3")], "{end:?}");
            assert!(!pending);
            if end != "\r" {
                let raw: Vec<u8> = events.iter().flat_map(|(_, _, raw)| raw.to_vec()).collect();
                assert_eq!(raw, stream.as_bytes(), "nothing is lost or added");
            }
        }
    }

    #[test]
    fn an_event_within_one_chunk_is_a_slice_of_it() {
        let chunk = Bytes::from_static(b"data: 1\n\ndata: 2\r\n\r\ndata");
        let mut parser = SseParser::new(100);
        parser.push(chunk.clone());
        let first = parser.next().unwrap().unwrap();
        let second = parser.next().unwrap().unwrap();
        assert_eq!(first.raw().as_ptr(), chunk.as_ptr());
        assert_eq!(second.raw().as_ptr(), chunk[9..].as_ptr());
        assert_eq!(second.data_bytes().as_ptr(), chunk[15..].as_ptr());
        assert!(parser.next().is_none());
        assert!(parser.pending());
    }

    #[test]
    fn an_event_is_out_as_soon_as_its_blank_line_is_known() {
        let mut parser = SseParser::new(100);
        parser.push(Bytes::from_static(b"data: 1\r\n\r"));
        assert_eq!(parser.next().unwrap().unwrap().raw().as_ref(), b"data: 1\r\n\r\n");
        assert!(!parser.pending());
        parser.push(Bytes::from_static(b"\ndata: 2\r\n\r\n"));
        assert_eq!(parser.next().unwrap().unwrap().raw().as_ref(), b"data: 2\r\n\r\n");
        assert!(parser.next().is_none());
        assert!(!parser.pending());
    }

    #[test]
    fn fields_are_read_as_the_standard_says() {
        for (stream, expected) in [
            ("data\n\n", ""),
            ("data:\n\n", ""),
            ("data: \n\n", ""),
            ("data:  x\n\n", " x"),
            ("data:x:y\n\n", "x:y"),
            ("data\ndata\n\n", "\n"),
            (" data: x\n\n", ""),
            ("Data: x\n\n", ""),
            ("id: 1\nretry: 5\ndata: x\n\n", "x"),
            ("\n\n\ndata: x\n\n", "x"),
            ("\u{feff}data: x\n\n", "x"),
        ] {
            assert_eq!(data(stream), [expected], "{stream:?}");
        }
        assert_eq!(data("data: \u{feff}x\n\n\u{feff}data: y\n\n"), ["\u{feff}x", ""], "a mark later is no mark");
    }

    #[test]
    fn events_without_data_are_told_apart() {
        let mut parser = SseParser::new(100);
        parser.push(Bytes::from_static(b": ping\n\nevent: ping\n\ndata:\n\ndata:\ndata:\n\ndata: x\n\n"));
        let empty: Vec<bool> = std::iter::from_fn(|| parser.next()).map(|event| event.unwrap().is_empty()).collect();
        assert_eq!(empty, [true, true, true, false, false]);
    }

    #[test]
    fn the_last_name_counts_and_an_empty_one_is_none() {
        let (events, _) = parse(&[b"event: a\nevent: b\ndata\n\nevent:\ndata\n\nevent: \xff\ndata\n\n"]);
        let names: Vec<_> = events.iter().map(|(name, _, _)| name.as_deref()).collect();
        assert_eq!(names, [Some("b"), None, None]);
    }

    #[test]
    fn a_cut_event_is_pending() {
        for stream in ["data: x", "data: x\n", "d", ": c\n", "\u{feff}"] {
            assert!(parse(&[stream.as_bytes()]).1, "{stream:?}");
        }
        for stream in ["", "\n", "\r\n\r\n", "data: x\n\n\n"] {
            assert!(!parse(&[stream.as_bytes()]).1, "{stream:?}");
        }
    }

    #[test]
    fn an_event_over_the_limit_ends_the_parsing() {
        let mut parser = SseParser::new(9);
        parser.push(Bytes::from_static(b"data: 1\n\n"));
        assert!(parser.next().unwrap().is_ok());
        parser.push(Bytes::from_static(b"data: 12\n\ndata: 3\n\n"));
        assert_eq!(parser.next(), Some(Err(TooLarge)));
        assert_eq!(parser.next(), None);
        assert!(parser.pending());
        let mut parser = SseParser::new(100);
        let refused = (0..1000).any(|_| {
            parser.push(Bytes::from_static(b"xxxxxxxxxx"));
            parser.next() == Some(Err(TooLarge))
        });
        assert!(refused && parser.partial.is_empty(), "an endless line is not kept");
    }

    #[test]
    fn a_long_event_in_many_chunks_is_looked_at_once() {
        // Two million one-byte chunks: a second look at what is held would take hours.
        let mut parser = SseParser::new(4 << 20);
        let byte = Bytes::from_static(b"x");
        for _ in 0..2_000_000 {
            parser.push(byte.clone());
            assert!(parser.next().is_none());
        }
        parser.push(Bytes::from_static(b"\n\n"));
        assert_eq!(parser.next().unwrap().unwrap().raw().len(), 2_000_002);
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"data: ".to_vec()),
            Just(b"event:".to_vec()),
            Just(b":".to_vec()),
            Just("\u{feff}\u{1f600}".as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    /// What the standard says, written down as simply as can be: data of the events that have any.
    fn model(stream: &[u8]) -> Vec<Vec<u8>> {
        let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
        let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
        let mut bytes = stream.iter().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\r' => {
                    bytes.next_if_eq(&&b'\n');
                    lines.push(Vec::new());
                }
                b'\n' => lines.push(Vec::new()),
                _ => lines.last_mut().unwrap().push(*byte),
            }
        }
        lines.pop(); // a line without an end
        let (mut events, mut data) = (Vec::new(), Vec::new());
        for line in lines {
            if line.is_empty() {
                data.pop();
                if !data.is_empty() {
                    events.push(std::mem::take(&mut data));
                }
            } else if line == b"data" {
                data.push(b'\n');
            } else if let Some(value) = line.strip_prefix(b"data:") {
                data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
                data.push(b'\n');
            }
        }
        events
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(stream in stream(), cuts: Vec<prop::sample::Index>) {
            let whole = parse(&[&stream]);
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            prop_assert_eq!(&parse(&bytes), &whole);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(&parse(&chunks), &whole);
            // Pushed all at once, before the first event is asked for.
            let mut parser = SseParser::new(1 << 20);
            chunks.iter().for_each(|chunk| parser.push(Bytes::copy_from_slice(chunk)));
            let raw: Vec<Bytes> = std::iter::from_fn(|| parser.next()).map(|event| event.unwrap().raw().clone()).collect();
            prop_assert_eq!(raw, whole.0.iter().map(|(_, _, raw)| raw.clone()).collect::<Vec<_>>());
        }

        #[test]
        fn the_events_are_those_of_the_standard(stream in stream()) {
            let mut parser = SseParser::new(1 << 20);
            parser.push(Bytes::copy_from_slice(&stream));
            let events: Vec<Vec<u8>> = std::iter::from_fn(|| parser.next())
                .map(|event| event.unwrap())
                .filter(|event| !event.is_empty())
                .map(|event| event.data().into_owned())
                .collect();
            prop_assert_eq!(events, model(&stream));
        }

        #[test]
        fn the_limit_holds_for_any_chunking(stream in stream(), limit in 0_usize..40) {
            let run = |size: usize| {
                let mut parser = SseParser::new(limit);
                let mut events = Vec::new();
                for chunk in stream.chunks(size) {
                    parser.push(Bytes::copy_from_slice(chunk));
                    events.extend(std::iter::from_fn(|| parser.next()));
                }
                events
            };
            prop_assert_eq!(run(1), run(stream.len().max(1)));
        }
    }
}
