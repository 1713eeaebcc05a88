//! The signature of Standard Webhooks 1.0.0, by which a receiver knows who has sent a webhook, and that it is no replay.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderName, HeaderValue};
use ring::hmac;

use crate::config;
use crate::messages::{Headers, JobId, Secret};

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Signs with one secret. Debug shows nothing of it.
pub(super) struct Signer(hmac::Key);

impl Signer {
    /// # Errors
    /// What is wrong with `secret`, without repeating it. One that comes from a configuration has been checked.
    pub(super) fn new(secret: &Secret) -> Result<Self, String> {
        let key = config::webhook_key(secret.expose())?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The headers of an attempt at `unix_seconds` to deliver `body`. The job's id is the webhook's: the same at each attempt,
    /// and without the full stop that parts what is signed.
    pub(super) fn headers(&self, job: JobId, unix_seconds: u64, body: &[u8]) -> Headers {
        let id = job.to_string();
        let value = |text: &str| HeaderValue::from_str(text).expect("ids and base64 are visible ASCII");
        let signature = value(&self.sign(&id, unix_seconds, body));
        [(ID, value(&id)), (TIMESTAMP, HeaderValue::from(unix_seconds)), (SIGNATURE, signature)].into_iter().collect()
    }

    fn sign(&self, id: &str, unix_seconds: u64, body: &[u8]) -> String {
        let mut signing = hmac::Context::with_key(&self.0);
        signing.update(format!("{id}.{unix_seconds}.").as_bytes());
        signing.update(body);
        format!("v1,{}", STANDARD.encode(signing.sign()))
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(secret: &str) -> Signer {
        Signer::new(&Secret::new(secret)).unwrap()
    }

    #[test]
    fn signatures_are_those_of_the_published_vectors() {
        // The first is of the reference libraries' own tests, the second of Svix's documentation; the third was made by the
        // Python package standardwebhooks 1.0.1.
        for (secret, id, at, body, signature) in [
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
            (
                "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA8=",
                "job_1",
                1_700_000_000,
                r#"{"text":"é"}"#,
                "v1,Ei42fQMOdTYe1iA9U8NYAUneaRYNtdaZF4ug7LGdzSY=",
            ),
        ] {
            assert_eq!(signer(secret).sign(id, at, body.as_bytes()), signature);
        }
    }

    #[test]
    fn the_headers_say_what_was_signed() {
        let signer = signer("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let headers = signer.headers(JobId::of(1), 1_700_000_000, b"{}");
        assert_eq!(headers.get("webhook-id"), Some("job_0000000000000001"));
        assert_eq!(headers.get("webhook-timestamp"), Some("1700000000"));
        let signature = signer.sign("job_0000000000000001", 1_700_000_000, b"{}");
        assert_eq!(headers.get("webhook-signature"), Some(&*signature));
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn a_signer_does_not_show_its_secret() {
        assert_eq!(format!("{:?}", signer("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")), "Signer(***)");
        let error = Signer::new(&Secret::new("whsec_hunter2")).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
