//! Reads a request's body: no larger than allowed, no slower than a caller of good will, and counted as it grows.

use std::time::Duration;

use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderMap};
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_util::StreamExt as _;
use memmap2::MmapMut;

use crate::clock::{self, Instant};
use crate::messages::{Error, ErrorKind};

/// A body that brings nothing for so long is given up, and so is one below the least rate within such a window.
const WINDOW: Duration = Duration::from_secs(20);

/// 1 KiB/s over a window.
const WINDOW_MIN_BYTES: usize = 20 * 1024;

/// A larger body is kept in pages of its own. From the allocator it would be moved whenever it outgrows its room, what is
/// set aside for it may be dirty already, and freed memory goes back to the system only by chance: a thousand bodies of
/// 16 MiB took two and a half times what they held, and left a third of it behind.
const PAGES_MIN_BYTES: usize = 64 * 1024;

/// The same for a body that does not say how long it is: from the allocator it gets this much and never more.
const UNTOLD_PAGES_MIN_BYTES: usize = 16 * 1024;

/// What the head says of the body, checked before any of it is read.
#[derive(Debug)]
pub(super) struct Announced {
    length: Option<usize>,
}

impl Announced {
    /// Reads `Content-Length` and `Content-Encoding`.
    ///
    /// # Errors
    /// `body_too_large` for a length over `max`, `invalid_request` for a compressed body.
    pub(super) fn read(headers: &HeaderMap, max: usize) -> Result<Self, Error> {
        Self::within(headers, Limit::of_body(max))
    }

    /// The same for what is not read whole.
    pub(super) fn within(headers: &HeaderMap, limit: Limit) -> Result<Self, Error> {
        for coding in headers.get_all(header::CONTENT_ENCODING) {
            if !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity") {
                return Err(Error::new(
                    ErrorKind::InvalidRequest,
                    "header content-encoding: only identity is taken; send the body uncompressed",
                ));
            }
        }
        // actix refuses a length that is no number; one that exceeds the machine's is too large in any case.
        let length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.trim().parse::<u64>().ok())
            .map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        match length {
            Some(length) if length > limit.bytes => Err(limit.exceeded()),
            length => Ok(Self { length }),
        }
    }
}

/// A body as it comes: no larger than allowed, no slower than a caller of good will. What the gateway itself takes between two
/// pieces is not held against the caller.
pub(super) struct Paced<P> {
    payload: P,
    announced: Announced,
    limit: Limit,
    read: usize,
    window_start: Instant,
    window_bytes: usize,
    last_piece: Instant,
    /// When the last piece was handed out.
    left: Instant,
}

/// How large a body may be, and which key of the configuration says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) bytes: usize,
    pub(super) key: &'static str,
}

impl Limit {
    /// For what is read whole.
    pub(super) fn of_body(bytes: usize) -> Self {
        Self { bytes, key: "[server] max_body" }
    }

    /// The refusal of a larger body.
    pub(super) fn exceeded(self) -> Error {
        let Self { bytes, key } = self;
        Error::new(ErrorKind::BodyTooLarge, format!("the body is larger than {bytes} bytes ({key})"))
    }
}

impl<P> Paced<P>
where
    P: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    pub(super) fn new(payload: P, announced: Announced, limit: Limit) -> Self {
        let now = clock::now();
        let (window_start, last_piece, left) = (now, now, now);
        Self { payload, announced, limit, read: 0, window_start, window_bytes: 0, last_piece, left }
    }

    /// The next piece; `None` at the body's end.
    ///
    /// # Errors
    /// `body_too_large` beyond the limit, `body_timeout` when it dribbles, `invalid_request` when it breaks off.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let away = clock::now() - self.left;
        (self.window_start, self.last_piece) = (self.window_start + away, self.last_piece + away);
        let piece = loop {
            let window_end = self.window_start + WINDOW;
            tokio::select! {
                biased;
                piece = self.payload.next() => break piece,
                () = clock::until(window_end.min(self.last_piece + WINDOW)) => {
                    let now = clock::now();
                    if now >= self.last_piece + WINDOW || self.window_bytes < WINDOW_MIN_BYTES {
                        return Err(dribbles());
                    }
                    (self.window_start, self.window_bytes) = (now, 0);
                }
            }
        };
        let Some(piece) = piece else { return Ok(None) };
        let piece = piece.map_err(|error| broken(&error))?;
        self.read += piece.len();
        if self.read > self.limit.bytes {
            return Err(self.limit.exceeded());
        }
        let now = clock::now();
        self.window_bytes += piece.len();
        (self.last_piece, self.left) = (now, now);
        if now >= self.window_start + WINDOW {
            // The window ended while bytes kept coming, so that its end was never waited for.
            if self.window_bytes < WINDOW_MIN_BYTES && self.announced.length != Some(self.read) {
                return Err(dribbles());
            }
            (self.window_start, self.window_bytes) = (now, 0);
        }
        Ok(Some(piece))
    }
}

/// Reads `payload` to its end. `grow` takes room for so many bytes more; it is asked before they are kept.
///
/// # Errors
/// As [`Paced::next`], with `max` as the limit, and what `grow` says.
pub(super) async fn read<P>(
    payload: &mut P,
    announced: Announced,
    max: usize,
    mut grow: impl FnMut(usize) -> Result<(), Error>,
) -> Result<Bytes, Error>
where
    P: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let length = announced.length;
    let mut body = Gathered::Small(BytesMut::new());
    let mut paced = Paced::new(payload, announced, Limit::of_body(max));
    while let Some(chunk) = paced.next().await? {
        grow(chunk.len())?;
        // Most bodies come in one piece: it is the body, nothing is copied.
        if body.len() == 0 && length == Some(chunk.len()) {
            return Ok(chunk);
        }
        if body.len() == 0 {
            body = Gathered::new(length)?;
        }
        body.add(&chunk, max)?;
    }
    Ok(body.whole())
}

/// What has come of a body.
enum Gathered {
    Small(BytesMut),
    Large(Pages),
}

/// Pages for all that may still come; those that nothing was written to take no memory.
struct Pages {
    pages: MmapMut,
    len: usize,
}

impl Gathered {
    /// Nothing yet, of a body of `length` bytes where that is known.
    ///
    /// # Errors
    /// `overloaded` when the system gives no memory.
    fn new(length: Option<usize>) -> Result<Self, Error> {
        match length {
            Some(length) if length > PAGES_MIN_BYTES => Pages::new(length).map(Self::Large),
            length => Ok(Self::Small(BytesMut::with_capacity(length.unwrap_or(UNTOLD_PAGES_MIN_BYTES)))),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Small(bytes) => bytes.len(),
            Self::Large(pages) => pages.len,
        }
    }

    /// Adds `chunk` to a body of at most `max` bytes.
    fn add(&mut self, chunk: &[u8], max: usize) -> Result<(), Error> {
        match self {
            Self::Small(bytes) if bytes.len() + chunk.len() <= bytes.capacity() => {
                bytes.extend_from_slice(chunk);
                Ok(())
            }
            Self::Small(bytes) => {
                let mut pages = Pages::new(max)?;
                pages.add(bytes, max)?;
                pages.add(chunk, max)?;
                *self = Self::Large(pages);
                Ok(())
            }
            Self::Large(pages) => pages.add(chunk, max),
        }
    }

    fn whole(self) -> Bytes {
        match self {
            // What it needs and no more: it may wait for long.
            Self::Small(bytes) if bytes.len() < bytes.capacity() / 2 => Bytes::copy_from_slice(&bytes),
            Self::Small(bytes) => bytes.freeze(),
            Self::Large(Pages { pages, len }) => Bytes::from_owner(pages).slice(..len),
        }
    }
}

impl Pages {
    fn new(bytes: usize) -> Result<Self, Error> {
        let pages = MmapMut::map_anon(bytes).map_err(|_| no_memory())?;
        // A huge page would take 2 MiB for a body's first byte. A kernel that has none refuses.
        #[cfg(target_os = "linux")]
        drop(pages.advise(memmap2::Advice::NoHugePage));
        Ok(Self { pages, len: 0 })
    }

    fn add(&mut self, chunk: &[u8], max: usize) -> Result<(), Error> {
        let end = self.len + chunk.len();
        self.pages.get_mut(self.len..end).ok_or_else(|| Limit::of_body(max).exceeded())?.copy_from_slice(chunk);
        self.len = end;
        Ok(())
    }
}

fn no_memory() -> Error {
    Error::new(ErrorKind::Overloaded, "the system gives no memory for the body; come again later")
        .with_retry_after(Duration::from_secs(1))
}

fn dribbles() -> Error {
    Error::new(ErrorKind::BodyTimeout, "the body came too slowly: nothing for 20 s, or less than 1 KiB/s over 20 s")
}

fn broken(error: &PayloadError) -> Error {
    let what = match error {
        PayloadError::Incomplete(_) => "the body broke off before its end",
        PayloadError::EncodingCorrupted => "the body's chunked coding is broken",
        _ => "the body could not be read",
    };
    Error::new(ErrorKind::InvalidRequest, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;
    use futures_util::stream;

    const MAX: usize = 1024 * 1024;

    fn chunked() -> Announced {
        Announced { length: None }
    }

    /// A body of chunks, each after a pause.
    fn paced(chunks: Vec<(Duration, usize)>) -> impl Stream<Item = Result<Bytes, PayloadError>> + Unpin {
        Box::pin(stream::iter(chunks).then(|(pause, len)| async move {
            clock::until(clock::now() + pause).await;
            Ok(Bytes::from(vec![b'x'; len]))
        }))
    }

    async fn read_paced(chunks: Vec<(Duration, usize)>) -> Result<usize, &'static str> {
        let read = read(&mut paced(chunks), chunked(), MAX, |_| Ok(())).await;
        read.map(|body| body.len()).map_err(|error| error.code())
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_gateway_takes_between_two_pieces_is_not_held_against_the_caller() {
        let pieces = vec![(Duration::from_secs(1), 1_000), (Duration::ZERO, 1_000), (Duration::from_secs(18), 1_000)];
        let mut paced = Paced::new(paced(pieces), chunked(), Limit::of_body(MAX));
        for _ in 0..3 {
            paced.next().await.unwrap().unwrap();
            clock::until(clock::now() + Duration::from_secs(60)).await;
        }
        assert_eq!(paced.next().await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_in_pieces_comes_out_whole() {
        for announced in [chunked(), Announced { length: Some(7) }] {
            let pieces = ["{\"a\":", "1", "}"].map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
            let body = read(&mut stream::iter(pieces), announced, MAX, |_| Ok(())).await.unwrap();
            assert_eq!(body, "{\"a\":1}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_in_pieces_comes_out_whole_be_its_length_known_or_not() {
        let bytes: Vec<u8> = (0..MAX).map(|n| (n / 7) as u8).collect();
        for announced in [chunked(), Announced { length: Some(MAX) }] {
            for size in [1_000, PAGES_MIN_BYTES, PAGES_MIN_BYTES + 1, MAX - 1] {
                let pieces: Vec<_> = bytes.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
                let announced = Announced { length: announced.length };
                let body = read(&mut stream::iter(pieces), announced, MAX, |_| Ok(())).await.unwrap();
                assert!(body == bytes, "{size}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_in_one_piece_is_not_copied() {
        let piece = Bytes::from(vec![b'x'; 500]);
        let mut payload = stream::iter([Ok(piece.clone())]);
        let body = read(&mut payload, Announced { length: Some(500) }, MAX, |_| Ok(())).await.unwrap();
        assert_eq!(body.as_ptr(), piece.as_ptr());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_falls_silent_for_20_seconds_is_given_up_then() {
        let start = clock::now();
        let chunks = vec![(Duration::from_secs(5), 400_000), (Duration::from_secs(3_600), 1)];
        assert_eq!(read_paced(chunks).await, Err("body_timeout"));
        assert_eq!(clock::now() - start, Duration::from_secs(25));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_below_1_kib_per_second_is_given_up_after_20_seconds() {
        let start = clock::now();
        assert_eq!(read_paced(vec![(Duration::from_secs(1), 1_000); 600]).await, Err("body_timeout"));
        assert!(clock::now() - start <= Duration::from_secs(21));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_turns_slow_after_a_fast_start_is_given_up() {
        let mut chunks = vec![(Duration::ZERO, 500_000)];
        chunks.extend(vec![(Duration::from_secs(1), 100); 600]);
        let start = clock::now();
        assert_eq!(read_paced(chunks).await, Err("body_timeout"));
        assert!(clock::now() - start <= Duration::from_secs(41));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_above_the_least_rate_is_read_to_its_end() {
        assert_eq!(read_paced(vec![(Duration::from_secs(2), 3_000); 100]).await, Ok(300_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_body_within_the_first_window_may_take_its_time() {
        assert_eq!(read_paced(vec![(Duration::from_secs(9), 10), (Duration::from_secs(9), 10)]).await, Ok(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_beyond_the_maximum_is_refused_while_it_is_read() {
        let mut admitted = 0;
        let mut payload = paced(vec![(Duration::ZERO, 400_000); 10]);
        let refused = read(&mut payload, chunked(), MAX, |more| {
            admitted += more;
            Ok(())
        });
        assert_eq!(refused.await.unwrap_err().code(), "body_too_large");
        assert!(admitted <= MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_asked_for_before_bytes_are_kept_and_its_refusal_ends_the_reading() {
        let mut room = 1_000_usize;
        let mut payload = paced(vec![(Duration::ZERO, 600); 5]);
        let read = read(&mut payload, chunked(), MAX, |more| {
            room = room.checked_sub(more).ok_or_else(|| Error::new(ErrorKind::Overloaded, "full"))?;
            Ok(())
        });
        assert_eq!(read.await.unwrap_err().code(), "overloaded");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_breaks_off_is_an_invalid_request() {
        let pieces = [Ok(Bytes::from_static(b"{")), Err(PayloadError::Incomplete(None))];
        let error = read(&mut stream::iter(pieces), chunked(), MAX, |_| Ok(())).await.unwrap_err();
        assert_eq!(error.code(), "invalid_request");
    }

    #[test]
    fn a_head_that_announces_too_much_is_refused_before_the_body() {
        let read = |length: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_str(length).unwrap());
            Announced::read(&headers, 100).map_err(|error| error.code())
        };
        assert!(read("100").is_ok());
        assert_eq!(read("101").unwrap_err(), "body_too_large");
        assert_eq!(read("18446744073709551615").unwrap_err(), "body_too_large");
    }

    #[test]
    fn a_compressed_body_is_refused_with_the_headers_name() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("Identity"));
        assert!(Announced::read(&headers, 100).is_ok());
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let error = Announced::read(&headers, 100).unwrap_err();
        assert_eq!(error.code(), "invalid_request");
        assert!(error.message().contains("content-encoding"));
    }
}
