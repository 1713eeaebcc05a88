use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use futures_util::StreamExt as _;
use futures_util::future::join;

use super::*;
use crate::clock::WallClock;
use crate::gateway::testing::tenant;
use crate::store::Store;

const OTHER: &str = r#"{"model":"m","messages":[],"n":2}"#;

fn keyed(body: &'static str) -> TestRequest {
    post(body).insert_header(("idempotency-key", "mine-42"))
}

fn is_replay(response: &ServiceResponse<BoxBody>) -> bool {
    header(response, "x-forebay-replayed") == "true"
}

/// An upstream that counts what it is asked and answers a second later, whole or with events a second apart, its number in
/// each.
fn slow(asked: Arc<AtomicU32>) -> impl Fn(u32) -> LocalFuture<Answered> + Send + Sync + 'static {
    move |_| {
        let number = asked.fetch_add(1, Relaxed) + 1;
        Box::pin(async move {
            clock::until(clock::now() + Duration::from_secs(1)).await;
            Ok(Scripted::json(200, format!(r#"{{"choices":[],"number":{number}}}"#)))
        })
    }
}

/// A stream of three events, each a second behind the one before; `breaks` before its end or does not.
fn dribbling(breaks: bool) -> Answered {
    let pieces = [CONTENT, CONTENT, FINISH].into_iter().enumerate();
    let events = futures_util::stream::iter(pieces).then(|(n, piece)| async move {
        clock::until(clock::now() + Duration::from_secs(n.min(1) as u64)).await;
        Ok(Bytes::from_static(piece.as_bytes()))
    });
    let last = if breaks { None } else { Some(Ok(Bytes::from_static(DONE.as_bytes()))) };
    let mut response = Scripted::events(Vec::new());
    response.body = Box::pin(events.take(if breaks { 2 } else { 3 }).chain(futures_util::stream::iter(last)));
    Ok(response)
}

#[test]
fn two_at_once_are_one_call_and_a_later_one_gets_its_answer_again() {
    in_virtual_time(async {
        let asked = Arc::new(AtomicU32::new(0));
        let app = gateway(system(""), slow(Arc::clone(&asked))).await;
        let (one, two) = join(answer(&app, keyed(CHAT)), answer(&app, keyed(CHAT))).await;
        assert_eq!([is_replay(&one), is_replay(&two)], [false, true]);
        assert_ne!(header(&one, "x-request-id"), header(&two, "x-request-id"));
        let later = answer(&app, keyed(CHAT)).await;
        assert_eq!(
            (later.status(), is_replay(&later), header(&later, "x-forebay-attempts")),
            (200.try_into().unwrap(), true, "1")
        );
        for response in [one, two, later] {
            assert_eq!(test::read_body(response).await, r#"{"choices":[],"number":1}"#);
        }
        assert_eq!(asked.load(Relaxed), 1);
        // Without the key, or with another, it is another call.
        answer(&app, post(CHAT)).await;
        answer(&app, post(CHAT).insert_header(("idempotency-key", "another"))).await;
        assert_eq!(asked.load(Relaxed), 3);
    });
}

#[test]
fn another_body_under_the_same_key_is_a_conflict_that_no_sdk_retries() {
    in_virtual_time(async {
        let app = gateway(system(""), slow(Arc::default())).await;
        let (one, other) = join(answer(&app, keyed(CHAT)), answer(&app, keyed(OTHER))).await;
        assert_eq!((one.status().as_u16(), other.status().as_u16()), (200, 409));
        assert_eq!(header(&other, "x-should-retry"), "false");
        assert_eq!(json(other).await["error"]["code"], "idempotency_conflict");
        let elsewhere = keyed(r#"{"model":"m"}"#).uri("/v1/embeddings");
        assert_eq!(answer(&app, elsewhere).await.status(), 409);
    });
}

#[test]
fn tenants_have_keys_of_their_own() {
    in_virtual_time(async {
        let mut config = system("");
        for name in ["one", "two"] {
            config.tenants.insert(name.into(), tenant(&format!("sk-{name}-0000000001")));
        }
        let asked = Arc::new(AtomicU32::new(0));
        let app = gateway(config, slow(Arc::clone(&asked))).await;
        for name in ["one", "two"] {
            let request = keyed(CHAT).insert_header(("authorization", format!("Bearer sk-{name}-0000000001")));
            assert!(!is_replay(&answer(&app, request).await), "{name}");
        }
        assert_eq!(asked.load(Relaxed), 2);
    });
}

#[test]
fn errors_that_would_come_again_are_kept_and_others_free_the_key() {
    for (status, is_kept) in [(400, true), (404, true), (422, true), (500, false)] {
        in_virtual_time(async move {
            let asked = Arc::new(AtomicU32::new(0));
            let upstream = Arc::clone(&asked);
            let app = gateway(system("retry = { max_attempts = 1 }"), move |_| {
                upstream.fetch_add(1, Relaxed);
                at_once(Ok(Scripted::json(status, r#"{"error":{"message":"no"}}"#)))
            })
            .await;
            for _ in 0..2 {
                let response = answer(&app, keyed(CHAT)).await;
                assert_eq!(response.status(), status);
                assert_eq!(json(response).await["error"]["message"], "no");
            }
            assert_eq!(asked.load(Relaxed), if is_kept { 1 } else { 2 }, "{status}");
        });
    }
}

#[test]
fn a_stream_is_followed_from_its_first_event_on_whenever_one_comes() {
    in_virtual_time(async {
        let app = gateway(system(""), |attempt| match attempt {
            1 => at_once(dribbling(false)),
            _ => at_once(Ok(Scripted::json(500, "{}"))),
        })
        .await;
        let first = answer(&app, keyed(STREAMED)).await;
        clock::until(clock::now() + Duration::from_millis(1_500)).await;
        let amid = answer(&app, keyed(STREAMED)).await;
        let whole = [CONTENT, CONTENT, FINISH, DONE].concat();
        let (first, amid) = join(read(first), read(amid)).await;
        assert_eq!((&first, &amid), (&(whole.clone(), true), &(whole.clone(), true)));
        assert_eq!(read(answer(&app, keyed(STREAMED)).await).await, (whole, true));
    });
}

#[test]
fn a_stream_that_breaks_breaks_for_all_and_frees_the_key() {
    in_virtual_time(async {
        let app = gateway(system(""), |attempt| at_once(dribbling(attempt == 1))).await;
        let (one, two) = join(answer(&app, keyed(STREAMED)), answer(&app, keyed(STREAMED))).await;
        for (events, is_clean) in [read(one).await, read(two).await] {
            assert!(events.starts_with(CONTENT) && events.contains("\"error\"") && !is_clean, "{events}");
        }
        let again = answer(&app, keyed(STREAMED)).await;
        assert!(!is_replay(&again));
        assert!(read(again).await.1);
    });
}

#[test]
fn the_call_goes_on_while_anyone_waits_and_is_cancelled_with_the_last() {
    in_virtual_time(async {
        let asked = Arc::new(AtomicU32::new(0));
        let app = gateway(system(""), slow(Arc::clone(&asked))).await;
        let soon = Duration::from_millis(100);
        let mut first = Box::pin(answer(&app, keyed(CHAT)));
        assert!(tokio::time::timeout(soon, &mut first).await.is_err());
        let mut second = Box::pin(answer(&app, keyed(CHAT)));
        assert!(tokio::time::timeout(soon, &mut second).await.is_err());
        drop(first);
        assert_eq!(test::read_body(second.await).await, r#"{"choices":[],"number":1}"#);

        let mut alone = Box::pin(answer(&app, post(CHAT).insert_header(("idempotency-key", "left"))));
        assert!(tokio::time::timeout(soon, &mut alone).await.is_err());
        drop(alone);
        let again = answer(&app, post(CHAT).insert_header(("idempotency-key", "left"))).await;
        assert_eq!(test::read_body(again).await, r#"{"choices":[],"number":3}"#);
    });
}

#[test]
fn an_answer_is_kept_for_a_day() {
    in_virtual_time(async {
        let asked = Arc::new(AtomicU32::new(0));
        let app = gateway(system(""), slow(Arc::clone(&asked))).await;
        for (hours, expected) in [(0, 1), (23, 1), (2, 2)] {
            clock::until(clock::now() + Duration::from_secs(hours * 3_600)).await;
            answer(&app, keyed(CHAT)).await;
            assert_eq!(asked.load(Relaxed), expected, "after {hours} hours more");
        }
    });
}

#[test]
fn a_key_that_cannot_be_one_is_refused() {
    in_virtual_time(async {
        let app = gateway(system(""), slow(Arc::default())).await;
        for key in [String::new(), " ".to_owned(), "x".repeat(256)] {
            let response = answer(&app, post(CHAT).insert_header(("idempotency-key", key))).await;
            assert_eq!(response.status(), 400);
            let message = json(response).await["error"]["message"].to_string();
            assert!(message.contains("idempotency-key"), "{message}");
        }
    });
}

/// What an upstream counts that answers at once, with `status`, its number in each.
fn numbered(status: u16, asked: &Arc<AtomicU32>) -> impl Fn(u32) -> LocalFuture<Answered> + Send + Sync + 'static {
    let asked = Arc::clone(asked);
    move |_| {
        let number = asked.fetch_add(1, Relaxed) + 1;
        at_once(Ok(Scripted::json(status, format!(r#"{{"choices":[],"number":{number}}}"#))))
    }
}

#[test]
fn an_answer_outlives_the_process_that_got_it() {
    in_virtual_time(async {
        let (store, wall, asked) = (Store::memory(), WallClock::new(), Arc::new(AtomicU32::new(0)));
        let process = || gateway_of(Forebay::builder(system("")).store(store.clone(), wall), numbered(200, &asked));
        let first = answer(&process().await, keyed(CHAT)).await;
        assert!(!is_replay(&first));
        let app = process().await;
        let (again, once_more) = (answer(&app, keyed(CHAT)).await, answer(&app, keyed(CHAT)).await);
        for response in [first, again, once_more] {
            assert_eq!(header(&response, "x-forebay-upstream"), "up");
            assert_eq!(header(&response, "content-type"), "application/json");
            assert_eq!(test::read_body(response).await, r#"{"choices":[],"number":1}"#);
        }
        let other = answer(&process().await, keyed(OTHER)).await;
        assert_eq!(other.status(), 409);
        assert_eq!(json(other).await["error"]["code"], "idempotency_conflict");
        assert_eq!(asked.load(Relaxed), 1);
        clock::until(clock::now() + Duration::from_secs(86_401)).await;
        let late = answer(&process().await, keyed(OTHER)).await;
        assert_eq!((late.status().as_u16(), is_replay(&late), asked.load(Relaxed)), (200, false, 2), "a day is over");
    });
}

#[test]
fn a_whole_stream_outlives_the_process_and_a_broken_one_does_not() {
    in_virtual_time(async {
        let (store, wall) = (Store::memory(), WallClock::new());
        let keyed = || keyed(STREAMED);
        let process = |breaks| {
            gateway_of(Forebay::builder(system("")).store(store.clone(), wall), move |_| at_once(dribbling(breaks)))
        };
        let (_, is_clean) = read(answer(&process(true).await, keyed()).await).await;
        assert!(!is_clean);
        let (made, is_clean) = read(answer(&process(false).await, keyed()).await).await;
        assert!(is_clean, "the one that broke has freed the key");
        let again = answer(&process(true).await, keyed()).await;
        assert!(is_replay(&again) && header(&again, "content-type").starts_with("text/event-stream"));
        assert_eq!(read(again).await, (made, true));
    });
}

#[test]
fn of_the_upstreams_errors_those_outlive_the_process_that_would_come_again() {
    in_virtual_time(async {
        for (status, is_kept) in [(400, true), (500, false)] {
            let (store, wall, asked) = (Store::memory(), WallClock::new(), Arc::new(AtomicU32::new(0)));
            let once = || system("retry = { max_attempts = 1 }");
            let process = || gateway_of(Forebay::builder(once()).store(store.clone(), wall), numbered(status, &asked));
            for _ in 0..2 {
                let response = answer(&process().await, keyed(CHAT)).await;
                assert_eq!(response.status(), status);
            }
            assert_eq!(asked.load(Relaxed), if is_kept { 1 } else { 2 }, "{status}");
        }
    });
}
