//! What a caller's choice of URL reaches, over real sockets.

use super::super::ChosenBy;
use super::peer::Peer;
use super::rig::{Rig, run, trusted};
use crate::messages::{FailureKind, Sent};

fn chosen_by(chosen_by: ChosenBy, base: String) -> Rig {
    Rig { chosen_by, ..Rig::at(base) }
}

#[test]
fn a_caller_reaches_no_private_address_by_number_or_by_name() {
    run(async {
        let peer = Peer::start(None, |conn, asked| conn.answer(&asked.body).map(|()| true));
        let port = peer.address.port();
        for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "0.0.0.0", "[::]"] {
            let rig = chosen_by(ChosenBy::Caller, format!("http://{host}:{port}"));
            let error = rig.post("/", "x").await.unwrap_err();
            assert_eq!((error.kind, error.sent), (FailureKind::Unreachable, Sent::No), "{host}: {error:?}");
            assert!(error.detail.contains("not public"), "{host}: {error:?}");
        }
        assert_eq!(peer.connections(), 0, "not even a connection is made");
        for host in ["127.0.0.1", "localhost"] {
            chosen_by(ChosenBy::TrustedCaller, format!("http://{host}:{port}")).next_is_right(host).await;
        }
    });
}

#[test]
fn a_client_of_the_operators_does_not_dial_for_a_caller() {
    run(async {
        let peer = Peer::start(None, |conn, asked| conn.answer(&asked.body).map(|()| true));
        let mut rig = Rig::new(&peer, false);
        rig.next_is_right("the operator's").await;
        rig.chosen_by = ChosenBy::Caller;
        let error = rig.post("/", "x").await.expect_err("the connection that stands is the operator's");
        assert!(error.detail.contains("not public"), "{error:?}");
        assert_eq!(peer.connections(), 1);
    });
}

#[test]
fn a_connection_to_where_a_caller_chose_is_used_once() {
    for tls in [false, true] {
        run(async {
            let peer = Peer::start(tls.then(trusted), |conn, asked| {
                conn.answer(asked.head.contains("connection: close").to_string())?;
                Ok(!conn.is_left())
            });
            let rig = Rig { chosen_by: ChosenBy::TrustedCaller, ..Rig::new(&peer, tls) };
            for n in 1..=3 {
                assert_eq!(rig.post("/", "x").await.unwrap().body, "true", "the peer is told");
                assert_eq!(peer.connections(), n);
            }
        });
    }
}
