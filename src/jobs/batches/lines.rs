//! A file's lines, from its pieces: only as much is held as the longest line takes.

use bytes::{Bytes, BytesMut};

use crate::messages::FileId;
use crate::store::files::FileRecords;
use crate::store::{Records, StoreError};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line that is not blank.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// Its text without its end; nothing of a line that is longer than allowed.
    pub(super) text: Option<Bytes>,
    /// Counted from 1, blank ones too.
    pub(super) number: u64,
    /// Where in the file the next one begins.
    pub(super) end: u64,
}

/// Cuts pieces into lines. A line that lies in one piece is a slice of it.
#[derive(Debug)]
pub(super) struct Lines {
    max_bytes: usize,
    /// What is left of the last piece.
    piece: Bytes,
    /// The beginning of a line that lies in earlier pieces.
    begun: BytesMut,
    /// The line that has begun is longer than allowed.
    is_too_long: bool,
    number: u64,
    /// Where in the file what is next looked at stands.
    at: u64,
}

impl Lines {
    /// The lines of a file from `at` on, where a line begins.
    pub(super) fn new(at: u64, max_bytes: usize) -> Self {
        Self { max_bytes, piece: Bytes::new(), begun: BytesMut::new(), is_too_long: false, number: 0, at }
    }

    /// Where in the file the next piece begins.
    pub(super) fn wants(&self) -> u64 {
        self.at + self.piece.len() as u64
    }

    /// Takes the next piece, when there is no whole line left.
    pub(super) fn push(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty());
        self.piece = piece;
    }

    /// The next whole line of what has been pushed.
    pub(super) fn next(&mut self) -> Option<Line> {
        while let Some(length) = memchr::memchr(b'\n', &self.piece) {
            let rest = self.piece.split_to(length + 1).slice(..length);
            self.at += length as u64 + 1;
            if let Some(line) = self.end(rest) {
                return Some(line);
            }
        }
        let rest = std::mem::take(&mut self.piece);
        self.at += rest.len() as u64;
        self.begin(&rest);
        None
    }

    /// The last line, when the file ends without a line's end.
    pub(super) fn finish(&mut self) -> Option<Line> {
        self.end(Bytes::new())
    }

    fn begin(&mut self, text: &[u8]) {
        if self.begun.len() + text.len() > self.max_bytes {
            self.is_too_long = true;
            self.begun = BytesMut::new();
        }
        if !self.is_too_long {
            self.begun.extend_from_slice(text);
        }
    }

    /// A line ends with `rest`; `None` for a blank one.
    fn end(&mut self, rest: Bytes) -> Option<Line> {
        self.number += 1;
        let mut text = rest;
        if self.is_too_long || !self.begun.is_empty() || text.len() > self.max_bytes {
            self.begin(&text);
            text = std::mem::take(&mut self.begun).freeze();
        }
        let (number, end) = (self.number, self.at);
        if std::mem::take(&mut self.is_too_long) {
            return Some(Line { text: None, number, end });
        }
        if number == 1 && text.starts_with(BYTE_ORDER_MARK) {
            text = text.slice(BYTE_ORDER_MARK.len()..);
        }
        let trimmed = text.trim_ascii();
        (!trimmed.is_empty()).then(|| Line { text: Some(text.slice_ref(trimmed)), number, end })
    }
}

/// The lines of `file` from `at` on: at most `limit`, and what comes behind the first `bytes` bytes only as far as the line goes
/// that lies there. Fewer than that are all there are.
pub(super) fn read(
    records: &dyn Records,
    file: FileId,
    at: u64,
    limit: usize,
    bytes: u64,
    max_line_bytes: usize,
) -> Result<Vec<Line>, StoreError> {
    let (mut lines, mut read) = (Lines::new(at, max_line_bytes), Vec::new());
    while read.len() < limit && read.last().is_none_or(|last: &Line| last.end < at + bytes) {
        if let Some(line) = lines.next() {
            read.push(line);
        } else if let Some(piece) = FileRecords::piece(records, file, lines.wants())? {
            lines.push(piece);
        } else {
            read.extend(lines.finish());
            break;
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_BYTES: usize = 12;

    fn lines_of(pieces: &[Bytes], at: u64) -> Vec<Line> {
        let (mut lines, mut all) = (Lines::new(at, MAX_BYTES), Vec::new());
        for piece in pieces {
            lines.push(piece.clone());
            all.extend(std::iter::from_fn(|| lines.next()));
        }
        all.extend(lines.finish());
        all
    }

    fn shown(line: &Line) -> (u64, Option<&str>) {
        (line.number, line.text.as_deref().map(|text| std::str::from_utf8(text).unwrap()))
    }

    #[test]
    fn blank_lines_count_and_are_not_given_and_line_ends_of_any_kind_are_taken_off() {
        let text = Bytes::from_static(b"\xef\xbb\xbf{1}\r\n\n  \r\n {2} \n{3}");
        let lines = lines_of(std::slice::from_ref(&text), 0);
        let shown: Vec<_> = lines.iter().map(shown).collect();
        assert_eq!(shown, [(1, Some("{1}")), (4, Some("{2}")), (5, Some("{3}"))]);
        let inside = text.as_ptr_range();
        assert!(lines[..2].iter().all(|line| inside.contains(&line.text.as_ref().unwrap().as_ptr())), "slices");
    }

    #[test]
    fn a_line_longer_than_allowed_is_told_without_its_text_and_the_next_one_is_whole() {
        let pieces = [b"0123456", b"7890123", b"\n{\"a\"}\n"].map(|piece| Bytes::from_static(piece));
        let lines = lines_of(&pieces, 0);
        assert_eq!(lines.iter().map(shown).collect::<Vec<_>>(), [(1, None), (2, Some("{\"a\"}"))]);
    }

    proptest! {
        #[test]
        fn however_the_file_is_cut_its_lines_are_the_same_and_each_end_is_where_the_rest_begins(
            text in "[ab \r\n]{0,80}",
            cuts in prop::collection::vec(1usize..9, 1..20),
        ) {
            let whole = lines_of(&[Bytes::from(text.clone())], 0);
            let (mut pieces, mut rest, mut sizes) = (Vec::new(), Bytes::from(text.clone()), cuts.iter().cycle());
            while !rest.is_empty() {
                pieces.push(rest.split_to((*sizes.next().unwrap()).min(rest.len())));
            }
            prop_assert_eq!(&lines_of(&pieces, 0), &whole);
            for (n, line) in whole.iter().enumerate() {
                let rest = Bytes::from(text.clone()).slice(line.end as usize..);
                let behind = lines_of(&[rest], line.end);
                let texts = |lines: &[Line]| lines.iter().map(|line| (line.text.clone(), line.end)).collect::<Vec<_>>();
                prop_assert_eq!(texts(&behind), texts(&whole[n + 1..]));
            }
        }
    }
}
