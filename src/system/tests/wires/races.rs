//! Kept connections whose peer speaks or leaves at the worst time.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use super::own::Own;
use super::stage::{Ask, OWN, Stage, judged, system};
use crate::pool::transport::tests::rig::run;

/// Only what the reactor has noticed is seen by an ordinary read, and a busy thread is late to notice.
#[test]
fn what_has_arrived_on_an_idle_connection_keeps_the_next_call_off_it() {
    for (what, tls) in
        ["answer", "answer to nobody", "FIN", "end", "reset"].into_iter().flat_map(|w| [(w, false), (w, true)])
    {
        run(async {
            let ((go, gone), (done, is_done)) = (channel(), channel());
            let gone = Mutex::new(gone);
            let stage = Stage::plain(tls, move |conn, asked| {
                let own = Own::to(asked);
                conn.say(own.sized())?;
                if asked.fault.is_none() {
                    return Ok(true);
                }
                gone.lock().unwrap().recv().unwrap();
                match asked.fault.as_deref() {
                    Some("answer") => conn.say(own.sized())?,
                    Some("FIN") => _ = conn.fin()?,
                    Some("end") => _ = conn.finish()?,
                    Some("reset") => {
                        conn.reset()?;
                        conn.close_now();
                    }
                    _ => conn.say("HTTP/1.1 408 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?,
                }
                done.send(()).unwrap();
                conn.hold();
                Ok(false)
            })
            .await;
            assert_eq!(stage.hear(Ask::whole(what, "first")).await, OWN);
            go.send(()).unwrap();
            is_done.recv().unwrap(); // blocks this thread: the reactor has no turn before the next call
            assert_eq!(stage.hear(Ask::whole("", "next")).await, OWN, "after {what}, tls {tls}");
            assert_eq!(stage.peer.connections(), 2);
        });
    }
}

#[test]
fn a_peer_that_leaves_as_we_send_costs_an_attempt_and_no_answer() {
    for tls in [false, true] {
        run(async {
            let tries = AtomicUsize::new(0);
            let stage = Stage::of(tls, "retry = { base_delay = \"1ms\" }", move |conn, asked| {
                let own = Own::to(asked);
                let is_first = asked.fault.is_some() && tries.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
                match asked.fault.as_deref().filter(|_| is_first) {
                    None => return conn.say(own.sized()).map(|()| true),
                    Some("FIN") => {}
                    Some("end") => return conn.finish(),
                    Some("reset") => return conn.reset(),
                    Some("103") => conn.say("HTTP/1.1 103 X\r\n\r\n")?,
                    Some("half a head") => conn.say(&own.sized()[..20])?,
                    Some(_) => conn.say(own.half_sized())?,
                }
                conn.fin()
            })
            .await;
            for what in ["FIN", "end", "reset", "103", "half a head", "half an answer"] {
                assert_eq!(stage.hear(Ask::whole("", "before")).await, OWN);
                let outcome = stage.call(Ask::whole(what, what)).await;
                assert_eq!(outcome.as_ref().map(|answer| answer.meta.attempts).ok(), Some(2), "{what}: {outcome:?}");
                assert_eq!(judged(outcome, what), OWN);
            }
        });
    }
}

#[test]
fn calls_in_a_row_get_their_answers_from_a_peer_that_closes_behind_each_without_a_word() {
    for tls in [false, true] {
        run(async {
            let stage = Stage::of(tls, "retry = { base_delay = \"1ms\" }", |conn, asked| {
                conn.say(Own::to(asked).sized())?;
                conn.finish()
            })
            .await;
            for n in 0..20 {
                let word = format!("word {n}");
                assert_eq!(stage.hear(Ask::whole("", &word)).await, OWN);
            }
        });
    }
}

/// As overloaded servers do: to whoever has connected, asked or not.
#[test]
fn an_answer_that_was_there_before_the_request_is_the_first_ones_and_nobody_elses() {
    run(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for (n, connection) in listener.incoming().take(2).enumerate() {
                let mut tcp = connection.unwrap();
                let body = format!("{{\"error\":{{\"message\":\"busy {n}\"}}}}");
                write!(tcp, "HTTP/1.1 503 X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
                tcp.shutdown(Shutdown::Write).unwrap();
                std::thread::spawn(move || tcp.read_to_end(&mut Vec::new())); // an unread request would reset all
            }
        });
        let forebay = system(&base, "retry = { max_attempts = 1 }").await;
        for n in 0..2 {
            let heard = judged(forebay.call(Ask::whole("", "word").request()).await, "word");
            assert_eq!(heard, format!("503 the upstream's: busy {n}"));
        }
    });
}
