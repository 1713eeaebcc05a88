//! Deliveries to their end: in virtual time over answers from memory, and over real sockets on loopback.

use std::future::pending;
use std::io::Write;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use ring::hmac;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::clock::in_virtual_time;
use crate::pool::transport::tests::peer::{Conn, Peer, whole};
use crate::pool::transport::tests::rig::{OURS, run, trusted};
use crate::pool::transport::{MemoryTransport, Scripted, http};

const SECRET: &str = "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg==";
const BODY: &str = r#"{"id":"job_1","status":"succeeded"}"#;

fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn webhooks(transport: Rc<dyn Transport>, allow_private: bool) -> Webhooks {
    Webhooks::new(&Secret::new(SECRET), allow_private, transport, Dice::seeded(1)).unwrap()
}

/// Over answers from `answer`.
fn scripted<Fut>(answer: impl Fn(HttpRequest) -> Fut + 'static) -> Webhooks
where
    Fut: Future<Output = Result<HttpResponse, TransportError>> + 'static,
{
    webhooks(Rc::new(MemoryTransport::new(answer)), false)
}

/// Over the network, trusting our authority.
fn over_sockets(allow_private: bool) -> Webhooks {
    let mut webhooks = webhooks(http()(), allow_private);
    Arc::get_mut(&mut webhooks.upstream).unwrap().authorities = OURS.trust();
    webhooks
}

fn delivery(url: impl Into<Arc<str>>) -> Delivery {
    Delivery { job: JobId::of(1), url: url.into(), body: BODY.into(), made: 0 }
}

/// Delivers until there is no further attempt; how it ended, and how long each wait was.
async fn to_the_end(webhooks: &Webhooks, url: &str) -> (DeliveryEnd, Vec<Duration>) {
    let (mut delivery, mut waits) = (delivery(url), Vec::new());
    loop {
        match webhooks.deliver(delivery.clone(), noon()).await {
            DeliveryEnd::Again { after } => {
                clock::until(clock::now() + after).await;
                waits.push(after);
                delivery.made += 1;
            }
            end => return (end, waits),
        }
    }
}

fn is_again(end: &DeliveryEnd, from: Duration, to: Duration) -> bool {
    matches!(end, DeliveryEnd::Again { after } if (from..=to).contains(after))
}

/// Whether an attempt that was the first failed, and the usual second one is due.
fn is_failed(end: &DeliveryEnd) -> bool {
    is_again(end, Duration::from_secs(4), Duration::from_secs(6))
}

const HOOK: &str = "https://hooks.example.com/services/SECRET?token=SECRET";

#[test]
fn what_is_sent_is_the_body_signed_to_where_a_caller_chose() {
    in_virtual_time(async {
        let webhooks = scripted(|request| async move {
            assert_eq!((&*request.url, &*request.body), (HOOK, BODY.as_bytes()));
            assert_eq!(request.chosen_by, ChosenBy::Caller);
            let mut names: Vec<_> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, ["content-type", "webhook-id", "webhook-signature", "webhook-timestamp"]);
            assert_eq!(request.headers.get("content-type"), Some("application/json"));
            assert_eq!(request.headers.get("webhook-timestamp"), Some("1700000000"));
            Ok(Scripted::json(204, ""))
        });
        assert_eq!(webhooks.deliver(delivery(HOOK), noon()).await, DeliveryEnd::Delivered);
        let allowing = self::webhooks(Rc::new(MemoryTransport::new(|_| pending())), true);
        assert_eq!(allowing.chosen_by, ChosenBy::TrustedCaller);
    });
}

#[test]
fn a_receiver_that_never_takes_it_is_tried_ten_times_in_three_days_and_given_up() {
    in_virtual_time(async {
        let webhooks = scripted(|_| async { Ok(Scripted::json(500, "SECRET")) });
        let start = clock::now();
        let (end, waits) = to_the_end(&webhooks, HOOK).await;
        assert_eq!(end, DeliveryEnd::GivenUp { why: "the receiver answered 500".into() });
        assert_eq!(waits.len(), 9);
        let days = since(start).as_secs_f64() / 86_400.0;
        assert!((2.5..3.8).contains(&days), "{days}");
    });
}

#[test]
fn a_receiver_that_is_gone_is_not_asked_again_and_one_that_asks_for_time_gets_it() {
    in_virtual_time(async {
        let answers = |status, retry_after: Option<&'static str>| {
            scripted(move |_| async move {
                let answer = Scripted::json(status, "{}");
                Ok(match retry_after {
                    Some(value) => Scripted::with(answer, "retry-after", value),
                    None => answer,
                })
            })
        };
        let seconds = Duration::from_secs;
        let gone = answers(410, Some("60")).deliver(delivery(HOOK), noon()).await;
        assert!(matches!(gone, DeliveryEnd::GivenUp { .. }), "{gone:?}");
        for (status, retry_after, from, to) in [
            (503, Some("60"), seconds(60), seconds(60)),
            (429, Some("Tue, 14 Nov 2023 22:15:20 GMT"), seconds(120), seconds(120)),
            (429, Some("1"), seconds(4), seconds(6)),
            (503, Some("31536000"), seconds(86_400), seconds(86_400)),
            (503, Some("never"), seconds(4), seconds(6)),
            (302, None, seconds(4), seconds(6)),
            (404, None, seconds(4), seconds(6)),
        ] {
            let end = answers(status, retry_after).deliver(delivery(HOOK), noon()).await;
            assert!(is_again(&end, from, to), "{status} {retry_after:?}: {end:?}");
        }
    });
}

#[test]
fn a_receiver_that_hangs_takes_fifteen_seconds_and_no_more() {
    in_virtual_time(async {
        let start = clock::now();
        let end = scripted(|_| pending()).deliver(delivery(HOOK), noon()).await;
        assert!(is_failed(&end), "{end:?}");
        assert_eq!(since(start), TIME_LIMIT);

        // Its head was said, and that is what counts: the rest may hang as it likes.
        let start = clock::now();
        let webhooks = scripted(|_| async { Ok(HttpResponse::new(200, Headers::new(), Box::pin(stream::pending()))) });
        assert_eq!(webhooks.deliver(delivery(HOOK), noon()).await, DeliveryEnd::Delivered);
        assert_eq!(since(start), TIME_LIMIT);
    });
}

#[test]
fn of_an_answers_body_little_is_read() {
    in_virtual_time(async {
        let read = Rc::new(RefCell::new(0));
        let counted = read.clone();
        let webhooks = scripted(move |_| {
            let counted = counted.clone();
            let chunks = stream::iter((0..1024).map(move |_| {
                *counted.borrow_mut() += 1024;
                Ok(Bytes::from_static(&[b'x'; 1024]))
            }));
            async move { Ok(HttpResponse::new(200, Headers::new(), Box::pin(chunks))) }
        });
        assert_eq!(webhooks.deliver(delivery(HOOK), noon()).await, DeliveryEnd::Delivered);
        assert_eq!(*read.borrow(), MAX_ANSWER + 1024);
    });
}

#[test]
fn a_dead_receiver_with_many_webhooks_does_not_hold_up_the_others() {
    in_virtual_time(async {
        let tried = Rc::new(RefCell::new(0));
        let counted = tried.clone();
        let webhooks = scripted(move |request| {
            let is_dead = request.url.starts_with("https://dead.example");
            *counted.borrow_mut() += u32::from(is_dead);
            async move { if is_dead { pending().await } else { Ok(Scripted::json(200, "")) } }
        });
        let to_dead =
            || (0..MOST_AT_ONCE).map(|n| webhooks.deliver(delivery(format!("https://dead.example/{n}")), noon()));
        let ends = futures_util::future::join_all(to_dead()).await;
        assert!(ends.iter().all(is_failed));
        assert_eq!(*tried.borrow(), 64, "nothing is known of it at first");

        let start = clock::now();
        let mut again = to_dead();
        let probe = again.next().unwrap();
        let others = async {
            for end in futures_util::future::join_all(again).await {
                assert!(is_failed(&end), "the schedule goes on, untried");
            }
            assert_eq!(webhooks.deliver(delivery(HOOK), noon()).await, DeliveryEnd::Delivered);
            assert_eq!(since(start), Duration::ZERO, "no place is taken for longer than it takes to see that");
        };
        let (end, ()) = futures_util::future::join(probe, others).await;
        assert!(is_failed(&end));
        assert_eq!((*tried.borrow(), since(start)), (65, TIME_LIMIT));
    });
}

#[test]
fn nothing_of_a_url_but_its_origin_is_shown() {
    in_virtual_time(async {
        let shown = format!("{:?}", delivery(HOOK));
        assert!(
            shown.contains("hooks.example.com") && !shown.contains("SECRET") && !shown.contains("status"),
            "{shown}"
        );
        let refusing = scripted(|_| async {
            Err(TransportError::new(FailureKind::Unreachable, crate::messages::Sent::No, "TCP: refused"))
        });
        let last = Delivery { made: 9, ..delivery(HOOK) };
        assert_eq!(refusing.deliver(last, noon()).await, DeliveryEnd::GivenUp { why: "TCP: refused".into() });
    });
}

/// Whether `head` and `body` are a webhook as Standard Webhooks has it, verified as a receiver does.
fn is_signed(head: &str, body: &[u8]) -> bool {
    let said = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let key = STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
    let signed = [said("webhook-id: ").as_bytes(), b".", said("webhook-timestamp: ").as_bytes(), b".", body].concat();
    let tag = STANDARD.decode(said("webhook-signature: v1,")).unwrap();
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed, &tag).is_ok()
}

#[test]
fn a_receiver_can_verify_who_sent_it() {
    for tls in [false, true] {
        run(async {
            let peer = Peer::start(tls.then(trusted), |conn, asked| {
                let is_right = is_signed(&asked.head, &asked.body)
                    && !is_signed(&asked.head, b"{}")
                    && asked.body == BODY.as_bytes()
                    && asked.head.starts_with("POST /hook?x=y HTTP/1.1\r\n")
                    && asked.head.contains("\r\nuser-agent: forebay/")
                    && asked.head.contains("\r\ncontent-type: application/json\r\n");
                conn.say(whole(if is_right { 200 } else { 400 }, b"ok")).map(|()| true)
            });
            let url = format!("{}://{}/hook?x=y", if tls { "https" } else { "http" }, peer.address);
            assert_eq!(over_sockets(true).deliver(delivery(url), noon()).await, DeliveryEnd::Delivered, "TLS: {tls}");
        });
    }
}

#[test]
fn a_receiver_whose_certificate_nobody_vouches_for_gets_nothing() {
    run(async {
        let (told, mut heard) = unbounded_channel();
        let peer =
            Peer::start(Some(trusted()), move |_, _| told.send(()).map(|()| false).map_err(std::io::Error::other));
        let mut webhooks = over_sockets(true);
        Arc::get_mut(&mut webhooks.upstream).unwrap().authorities = Authorities::default();
        let end = webhooks.deliver(delivery(format!("https://{}/", peer.address)), noon()).await;
        assert!(is_failed(&end), "{end:?}");
        assert!(heard.try_recv().is_err());
    });
}

#[test]
fn a_receiver_that_fails_first_is_told_again_with_the_same_id() {
    run(async {
        let ids = Arc::new(Mutex::new(Vec::new()));
        let seen = ids.clone();
        let peer = Peer::start(None, move |conn, asked| {
            let mut seen = seen.lock().unwrap();
            seen.extend(asked.head.lines().find(|line| line.starts_with("webhook-id: ")).map(str::to_owned));
            conn.say(whole(if seen.len() == 1 { 500 } else { 200 }, b"")).map(|()| true)
        });
        let webhooks = over_sockets(true);
        let first = delivery(format!("http://{}/", peer.address));
        let second = Delivery { made: 1, ..first.clone() };
        let end = webhooks.deliver(first, noon()).await;
        assert!(is_failed(&end), "{end:?}");
        assert_eq!(webhooks.deliver(second, noon() + Duration::from_secs(5)).await, DeliveryEnd::Delivered);
        assert_eq!(*ids.lock().unwrap(), ["webhook-id: job_0000000000000001"; 2]);
    });
}

#[test]
fn a_redirect_is_never_followed() {
    run(async {
        let inner = Peer::start(None, |conn, _| conn.answer("secret").map(|()| true));
        for status in [301, 302, 303, 307, 308] {
            let location = format!("http://{}/latest/meta-data", inner.address);
            let outer = Peer::start(None, move |conn, _| {
                conn.say(format!("HTTP/1.1 {status} X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"))
                    .map(|()| true)
            });
            let end = over_sockets(true).deliver(delivery(format!("http://{}/", outer.address)), noon()).await;
            assert!(is_failed(&end), "{status}: {end:?}");
            assert_eq!((outer.connections(), inner.connections()), (1, 0));
        }
    });
}

#[test]
fn a_name_or_address_of_this_machine_is_refused_before_anything_is_connected() {
    run(async {
        let peer = Peer::start(None, |conn, _| conn.answer("").map(|()| true));
        for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"] {
            let last = Delivery { made: 9, ..delivery(format!("http://{host}:{}/", peer.address.port())) };
            let DeliveryEnd::GivenUp { why } = over_sockets(false).deliver(last, noon()).await else {
                panic!("{host}")
            };
            assert!(why.contains("which is not public"), "{host}: {why}");
        }
        assert_eq!(peer.connections(), 0);
        let allowed = delivery(format!("http://localhost:{}/", peer.address.port()));
        assert_eq!(over_sockets(true).deliver(allowed, noon()).await, DeliveryEnd::Delivered);
    });
}

/// A peer that does `what` with each webhook, and tells when its caller has left.
fn telling(what: impl Fn(&mut Conn) + Send + Sync + 'static) -> (Peer, UnboundedReceiver<()>) {
    let (told, left) = unbounded_channel();
    let peer = Peer::start(None, move |conn, _| {
        what(conn);
        let _ = told.send(());
        Ok(false)
    });
    (peer, left)
}

#[test]
fn a_receiver_that_hangs_is_left() {
    run(async {
        let (peer, mut left) = telling(|conn| assert!(conn.is_left()));
        let mut webhooks = over_sockets(true);
        // Short, for the clock of sockets cannot be wound on; the peer never answers, however slow this machine is.
        Arc::get_mut(&mut webhooks.upstream).unwrap().timeouts.answer = Duration::from_millis(300);
        let end = webhooks.deliver(delivery(format!("http://{}/", peer.address)), noon()).await;
        assert!(is_failed(&end), "{end:?}");
        left.recv().await.expect("the connection is closed");
    });
}

#[test]
fn a_receiver_that_answers_without_end_is_left_and_has_taken_it() {
    run(async {
        let (peer, mut left) = telling(|conn| {
            conn.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
            let mut chunk = Vec::new();
            write!(chunk, "{:x}\r\n{}\r\n", 1 << 16, "x".repeat(1 << 16)).unwrap();
            while conn.say(&chunk).is_ok() {}
        });
        let webhooks = over_sockets(true);
        let end = webhooks.deliver(delivery(format!("http://{}/", peer.address)), noon()).await;
        assert_eq!(end, DeliveryEnd::Delivered);
        left.recv().await.expect("the connection is closed");
    });
}

#[test]
fn a_delivery_called_off_closes_its_connection() {
    run(async {
        let (asking, mut asked) = unbounded_channel();
        let (peer, mut left) = telling(move |conn| {
            let _ = asking.send(());
            assert!(conn.is_left());
        });
        let webhooks = over_sockets(true);
        tokio::select! {
            _ = webhooks.deliver(delivery(format!("http://{}/", peer.address)), noon()) => panic!("never answered"),
            _ = asked.recv() => {}
        }
        left.recv().await.expect("the connection is closed");
    });
}
