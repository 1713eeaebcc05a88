//! How an answer goes out: in pieces where it is large, without chunks where the caller knows none, and known to the
//! connection until it has been given.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::{ConnectionType, Version};
use bytes::Bytes;

use super::connection::Answering;
use crate::pool::transport::{InPieces, PIECE_BYTES};

/// Prepares `response` for a caller that speaks `version`. `answering` is held until all of it has been given.
pub(super) fn seen_off(
    response: ServiceResponse<BoxBody>,
    version: Version,
    answering: Option<Answering>,
) -> ServiceResponse<BoxBody> {
    response.map_body(|head, body| match body.size() {
        BodySize::Stream => {
            if version < Version::HTTP_11 {
                // Its callers know no chunks: the body ends with the connection, and a broken one with a reset.
                head.no_chunking(true);
                head.set_connection_type(ConnectionType::Close);
                if let Some(answering) = &answering {
                    answering.is_unframed();
                }
            }
            BoxBody::new(Attended { body, answering })
        }
        BodySize::Sized(size) => match body.try_into_bytes() {
            Ok(bytes) if size <= PIECE_BYTES as u64 => BoxBody::new(bytes),
            // Between two pieces it is not over.
            Ok(bytes) => BoxBody::new(Attended { body: BoxBody::new(InPieces(bytes)), answering }),
            // Nor while it comes from elsewhere.
            Err(body) => BoxBody::new(Attended { body, answering }),
        },
        BodySize::None => body,
    })
}

/// A body that comes bit by bit and may fall silent, while which the caller owes nothing.
struct Attended {
    body: BoxBody,
    answering: Option<Answering>,
}

impl MessageBody for Attended {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        let piece = ready!(Pin::new(&mut this.body).poll_next(cx));
        if let (None, Some(answering)) = (&piece, &this.answering) {
            answering.complete();
        }
        Poll::Ready(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::HttpResponse;
    use actix_web::test::TestRequest;
    use std::future::poll_fn;

    #[actix_web::test]
    async fn a_large_answer_goes_out_in_pieces_that_share_its_memory_and_a_small_one_as_it_is() {
        for length in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES - 7] {
            let bytes = Bytes::from((0..length).map(|n| n as u8).collect::<Vec<_>>());
            let response = HttpResponse::Ok().body(bytes.clone());
            let response = TestRequest::default().to_srv_response(response);
            let response = seen_off(response, Version::HTTP_11, None);
            let mut body = response.into_body();
            assert_eq!(body.size(), BodySize::Sized(length as u64));
            let mut at = 0;
            while let Some(piece) = poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await {
                let piece = piece.unwrap();
                assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES);
                assert_eq!(piece.as_ptr(), bytes[at..].as_ptr());
                at += piece.len();
            }
            assert_eq!(at, length);
        }
    }
}
