//! What of a good answer is sent, and how it ends, once a fault has struck its body. Pure.

use super::answers::{Events, Good};
use super::ask::Kind;
use super::events;
use super::faults::Fault;
use super::http::Body;

/// A body as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Show {
    pub(super) body: Body,
    /// What is written at once; between two of them lies the chunk gap.
    pub(super) pieces: Vec<Vec<u8>>,
    pub(super) then: Then,
}

/// What follows the last piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The body is complete, as far as HTTP can tell.
    Complete,
    Fin,
    Reset,
    Stall,
}

/// A good answer as it should be.
pub(super) fn unspoilt(good: &Good) -> Show {
    match good {
        Good::Whole(bytes) => {
            Show { body: Body::Length(bytes.len()), pieces: vec![bytes.clone()], then: Then::Complete }
        }
        Good::Stream(events) => stream(events, usize::MAX, Some(&events.ending), Body::Chunked, Then::Complete),
    }
}

/// A good answer struck by `fault`; `None` when that fault is none of a 200's body.
pub(super) fn spoilt(fault: Fault, kind: Kind, good: &Good) -> Option<Show> {
    match good {
        Good::Whole(bytes) => whole(fault, bytes),
        Good::Stream(events) => streamed(fault, kind, events),
    }
}

fn whole(fault: Fault, bytes: &[u8]) -> Option<Show> {
    let half = bytes[..bytes.len() / 2].to_vec();
    let framed = Body::Length(bytes.len());
    Some(match fault {
        Fault::ResetBody => Show { body: framed, pieces: vec![half], then: Then::Reset },
        Fault::StallBody => Show { body: framed, pieces: vec![half], then: Then::Stall },
        Fault::CutBody => Show { body: framed, pieces: vec![half], then: Then::Fin },
        Fault::CutOpening => Show { body: framed, pieces: Vec::new(), then: Then::Fin },
        Fault::CutUnframed => Show { body: Body::Unframed, pieces: vec![half], then: Then::Fin },
        Fault::TruncatedJson | Fault::Unfinished => {
            Show { body: Body::Length(half.len()), pieces: vec![half], then: Then::Complete }
        }
        _ => return None,
    })
}

fn streamed(fault: Fault, kind: Kind, events: &Events) -> Option<Show> {
    let half = events.content.len().div_ceil(2);
    let error = || {
        vec![events::error(kind, "The server had an error while processing your request (injected by the simulator)")]
    };
    let chunked = |content: usize, more: Option<&Vec<String>>, then| stream(events, content, more, Body::Chunked, then);
    Some(match fault {
        Fault::ResetBody => chunked(half, None, Then::Reset),
        Fault::StallBody => chunked(half, None, Then::Stall),
        Fault::CutBody => chunked(half, None, Then::Fin),
        Fault::CutOpening => chunked(0, None, Then::Fin),
        Fault::CutUnframed => stream(events, half, None, Body::Unframed, Then::Fin),
        Fault::Unfinished => chunked(usize::MAX, None, Then::Complete),
        Fault::TruncatedJson => {
            let mut events = events.clone();
            if let Some(last) = events.content.last_mut() {
                *last = events::broken(last);
            }
            stream(&events, usize::MAX, Some(&events.ending), Body::Chunked, Then::Complete)
        }
        Fault::ErrorFirst => {
            Show { body: Body::Chunked, pieces: vec![error().concat().into_bytes()], then: Then::Complete }
        }
        Fault::ErrorOpening => chunked(0, Some(&error()), Then::Complete),
        Fault::ErrorMidway => chunked(half, Some(&error()), Then::Complete),
        _ => return None,
    })
}

/// The opening, `content` events of the content, and `more`.
fn stream(events: &Events, content: usize, more: Option<&Vec<String>>, body: Body, then: Then) -> Show {
    let together = |events: &[String]| events.concat().into_bytes();
    let mut pieces = vec![together(&events.opening)];
    pieces.extend(events.content.iter().take(content).map(|event| event.clone().into_bytes()));
    pieces.extend(more.map(|events| together(events)));
    // Completions have no opening; an empty piece is no piece.
    pieces.retain(|piece| !piece.is_empty());
    Show { body, pieces, then }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Good {
        let all = |texts: &[&str]| texts.iter().map(|text| format!("data: {{\"{text}\":1}}\n\n")).collect();
        Good::Stream(Events {
            opening: all(&["role"]),
            content: all(&["a", "b", "c", "d"]),
            ending: all(&["stop", "done"]),
        })
    }

    fn sent(fault: Fault, good: &Good) -> (String, Body, Then) {
        let show = spoilt(fault, Kind::Chat, good).unwrap();
        (String::from_utf8(show.pieces.concat()).unwrap(), show.body, show.then)
    }

    #[test]
    fn an_unspoilt_answer_is_all_there() {
        let show = unspoilt(&parts());
        assert_eq!((show.pieces.len(), show.body, show.then), (6, Body::Chunked, Then::Complete));
        let whole = unspoilt(&Good::Whole(b"{}".to_vec()));
        assert_eq!((whole.pieces, whole.body), (vec![b"{}".to_vec()], Body::Length(2)));
    }

    #[test]
    fn a_stream_is_struck_where_the_fault_says() {
        for (fault, has, has_not, then) in [
            (Fault::CutOpening, "role", "\"a\"", Then::Fin),
            (Fault::CutBody, "\"b\"", "\"c\"", Then::Fin),
            (Fault::ResetBody, "\"b\"", "\"c\"", Then::Reset),
            (Fault::StallBody, "\"b\"", "\"c\"", Then::Stall),
            (Fault::Unfinished, "\"d\"", "stop", Then::Complete),
            (Fault::ErrorFirst, "server_error", "role", Then::Complete),
            (Fault::ErrorOpening, "server_error", "\"a\"", Then::Complete),
            (Fault::ErrorMidway, "server_error", "\"c\"", Then::Complete),
            (Fault::TruncatedJson, "done", "\"d\":1}", Then::Complete),
        ] {
            let (text, body, end) = sent(fault, &parts());
            assert!(text.contains(has) && !text.contains(has_not), "{fault}: {text}");
            assert_eq!((body, end), (Body::Chunked, then), "{fault}");
        }
    }

    #[test]
    fn a_whole_answer_is_struck_in_its_middle() {
        let good = Good::Whole(br#"{"answer":42}"#.to_vec());
        assert_eq!(sent(Fault::CutBody, &good), (r#"{"answ"#.to_owned(), Body::Length(13), Then::Fin));
        assert_eq!(sent(Fault::TruncatedJson, &good), (r#"{"answ"#.to_owned(), Body::Length(6), Then::Complete));
        assert_eq!(sent(Fault::CutUnframed, &good).1, Body::Unframed);
        assert_eq!(spoilt(Fault::ErrorFirst, Kind::Chat, &good), None, "there is no stream to say it in");
    }
}
