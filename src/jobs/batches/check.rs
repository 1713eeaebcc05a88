//! Looks through a batch's file before any of it is called: every line must ask something that can be answered.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde::Serialize;

use super::lines::{Line, Lines};
use crate::messages::Endpoint;
use crate::providers::batch_line::{BatchLine, LineFault};

/// A batch has no more lines.
pub(super) const LINES_MAX: u32 = 50_000;

/// So many errors are listed; nobody reads on behind them.
const ERRORS_MAX: usize = 100;

/// A batch's file, as far as it has been looked through. Knows every `custom_id` by a digest, so that 50,000 of any length take
/// a few megabytes.
pub(super) struct Check {
    endpoint: Endpoint,
    lines: Lines,
    max_line_bytes: usize,
    /// The line that each `custom_id` stands in.
    seen: HashMap<[u8; 16], u64>,
    total: u32,
    model: AskedFor,
    errors: Vec<BatchError>,
}

/// What the lines ask for.
#[derive(Clone)]
enum AskedFor {
    NothingYet,
    One(Arc<str>),
    Several,
}

/// What is wrong with a batch's file, in OpenAI's form.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub(super) struct BatchError {
    pub(super) code: &'static str,
    pub(super) line: Option<u64>,
    pub(super) message: String,
    pub(super) param: Option<String>,
}

impl BatchError {
    /// The file is not what it was.
    pub(super) fn damaged() -> Self {
        let message = "The file is damaged where it is kept; upload it again.".into();
        Self { code: "server_error", line: None, message, param: None }
    }
}

/// What a file holds that is in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Checked {
    pub(super) total: u32,
    /// The model that all lines ask for, if it is one.
    pub(super) model: Option<Arc<str>>,
}

impl Check {
    pub(super) fn new(endpoint: Endpoint, max_line_bytes: usize) -> Self {
        Self {
            endpoint,
            lines: Lines::new(0, max_line_bytes),
            max_line_bytes,
            seen: HashMap::new(),
            total: 0,
            model: AskedFor::NothingYet,
            errors: Vec::new(),
        }
    }

    /// What its lines ask.
    pub(super) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Where in the file the next piece begins; `None` when enough has been seen.
    pub(super) fn wants(&self) -> Option<u64> {
        (self.errors.len() < ERRORS_MAX && self.total <= LINES_MAX).then(|| self.lines.wants())
    }

    /// Looks through the next piece. `is_served` says whether anybody serves a model.
    pub(super) fn push(&mut self, piece: Bytes, is_served: impl Fn(&str) -> bool) {
        self.lines.push(piece);
        while self.wants().is_some()
            && let Some(line) = self.lines.next()
        {
            self.look_at(&line, &is_served);
        }
    }

    /// There are no more pieces, or enough has been seen.
    ///
    /// # Errors
    /// All that is wrong with the file.
    pub(super) fn finish(mut self, is_served: impl Fn(&str) -> bool) -> Result<Checked, Vec<BatchError>> {
        if self.wants().is_some()
            && let Some(line) = self.lines.finish()
        {
            self.look_at(&line, is_served);
        }
        let of_file = |code, message: String| BatchError { code, line: None, message, param: None };
        if self.total > LINES_MAX {
            let message = format!("The file has more than {LINES_MAX} requests; divide it into several batches.");
            self.errors.insert(0, of_file("too_many_tasks", message));
        }
        if self.total == 0 && self.errors.is_empty() {
            let message = "The file is empty: a batch has at least one request.".into();
            self.errors.push(of_file("empty_file", message));
        }
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let model = match self.model {
            AskedFor::One(model) => Some(model),
            AskedFor::NothingYet | AskedFor::Several => None,
        };
        Ok(Checked { total: self.total, model })
    }

    fn look_at(&mut self, line: &Line, is_served: impl Fn(&str) -> bool) {
        self.total += 1;
        if let Err(LineFault { code, message, param, .. }) = self.judge(line, is_served) {
            self.errors.push(BatchError { code, line: Some(line.number), message, param });
        }
    }

    fn judge(&mut self, line: &Line, is_served: impl Fn(&str) -> bool) -> Result<(), LineFault> {
        let Some(text) = &line.text else {
            let message = format!("This line is longer than {} bytes ([server] max_body).", self.max_line_bytes);
            return Err(LineFault::new("line_too_long", message, None));
        };
        let BatchLine { custom_id, request } = BatchLine::read(text)?;
        if let Some(first) = self.seen.insert(key(&custom_id), line.number) {
            // The first one stays the first.
            self.seen.insert(key(&custom_id), first);
            return Err(LineFault::duplicate(&custom_id, first));
        }
        if request.endpoint() != self.endpoint {
            let message = format!("`url` must be the batch's own endpoint, which is /v1{}.", self.endpoint.path());
            return Err(LineFault::new("url_mismatch", message, Some("url")));
        }
        if let Some(model) = request.model() {
            if !is_served(model) {
                let message = format!("no upstream serves the model {model:?}");
                return Err(LineFault::new("model_not_found", message, Some("body.model")));
            }
            self.model = match std::mem::replace(&mut self.model, AskedFor::Several) {
                AskedFor::NothingYet => AskedFor::One(model.into()),
                AskedFor::One(one) if *one == *model => AskedFor::One(one),
                _ => AskedFor::Several,
            };
        }
        Ok(())
    }
}

/// Half a SHA-256: nobody finds two names of one digest.
fn key(custom_id: &str) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&digest(&SHA256, custom_id.as_bytes()).as_ref()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(custom_id: &str, model: &str) -> String {
        let body = format!(r#"{{"model":"{model}","messages":[]}}"#);
        format!(r#"{{"custom_id":"{custom_id}","method":"POST","url":"/v1/chat/completions","body":{body}}}"#)
    }

    fn check(text: &str) -> Result<Checked, Vec<BatchError>> {
        let is_served = |model: &str| model != "nobody's";
        let mut check = Check::new(Endpoint::ChatCompletions, 1_000);
        let mut rest = Bytes::copy_from_slice(text.as_bytes());
        while !rest.is_empty() && check.wants().is_some() {
            let piece = rest.split_to(rest.len().min(4_096));
            check.push(piece, is_served);
        }
        check.finish(is_served)
    }

    fn said(text: &str) -> Vec<(Option<u64>, &'static str, Option<String>)> {
        check(text).unwrap_err().into_iter().map(|error| (error.line, error.code, error.param)).collect()
    }

    #[test]
    fn a_file_in_order_is_counted_and_its_one_model_known() {
        let one = [line("a", "m"), String::new(), line("b", "m")].join("\n");
        assert_eq!(check(&one), Ok(Checked { total: 2, model: Some("m".into()) }));
        let two = [line("a", "m"), line("b", "n"), line("c", "m")].join("\r\n");
        assert_eq!(check(&two), Ok(Checked { total: 3, model: None }));
    }

    #[test]
    fn every_wrong_line_is_named_with_its_number_and_field() {
        let text = [
            line("a", "m"),
            String::new(),
            "{".into(),
            line("a", "m"),
            line("b", "m").replace("chat/completions", "embeddings").replace("messages", "input"),
            line("c", "nobody's"),
            "x".repeat(2_000),
            line("a", "m"),
            line("d", "m"),
        ];
        let expected = [
            (Some(3), "invalid_json_line", None),
            (Some(4), "duplicate_custom_id", Some("custom_id".to_owned())),
            (Some(5), "url_mismatch", Some("url".to_owned())),
            (Some(6), "model_not_found", Some("body.model".to_owned())),
            (Some(7), "line_too_long", None),
            (Some(8), "duplicate_custom_id", Some("custom_id".to_owned())),
        ];
        assert_eq!(said(&text.join("\n")), expected);
        assert!(check(&text.join("\n")).unwrap_err()[5].message.contains("line 1"));
    }

    #[test]
    fn a_file_without_a_request_and_one_with_too_many_are_refused() {
        assert_eq!(said(""), [(None, "empty_file", None)]);
        assert_eq!(said(" \n\n"), [(None, "empty_file", None)]);
        let lines = |count: u32| (0..count).map(|n| line(&n.to_string(), "m") + "\n").collect::<String>();
        assert_eq!(check(&lines(LINES_MAX)).map(|checked| checked.total), Ok(LINES_MAX));
        assert_eq!(said(&lines(LINES_MAX + 1)), [(None, "too_many_tasks", None)]);
    }

    #[test]
    fn of_a_file_that_is_wrong_throughout_no_more_is_read_than_is_told() {
        let text = "{\n".repeat(100_000);
        assert_eq!(said(&text).len(), ERRORS_MAX);
    }
}
