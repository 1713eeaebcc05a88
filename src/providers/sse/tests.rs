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
    let empty: Vec<bool> = std::iter::from_fn(|| parser.next()).map(|event| event.unwrap().data().is_empty()).collect();
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
            .filter(|event| !event.data().is_empty())
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
