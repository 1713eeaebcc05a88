//! What IN asks, line by line and in order: checked before anything is asked, and kept as a few bytes for each line.

use std::collections::{BTreeMap, HashMap};
use std::io;

use ring::digest::{Context, SHA256};

use super::input::Line;
use crate::config::Config;
use crate::messages::{Endpoint, Request};
use crate::providers::batch_line::{BatchLine, LineFault};
use crate::providers::dialect::speaks;

/// More problems than that are counted only.
const SHOWN_MAX: usize = 20;

/// What a line may be longer than its body.
const AROUND_BODY_BYTES: usize = 64 * 1024;

/// How a line is known from one run to the next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    /// Its `custom_id`.
    pub(super) name: u128,
    /// Its `custom_id` and all that it asks: the number in the `id` of its output.
    pub(super) id: u128,
}

impl Key {
    pub(super) fn of(line: &BatchLine) -> Self {
        let name = name(&line.custom_id);
        let request = &line.request;
        Self { name, id: digest(&[&name.to_be_bytes(), request.endpoint().path().as_bytes(), request.body().bytes()]) }
    }
}

/// A `custom_id` as a number.
pub(super) fn name(custom_id: &str) -> u128 {
    digest(&[custom_id.as_bytes()])
}

/// The number of a line that asks nothing: by its place and text.
fn number_of_fault(line: &Line) -> u128 {
    digest(&[b"fault", &line.number.to_be_bytes(), line.bytes.as_deref().unwrap_or_default()])
}

fn digest(parts: &[&[u8]]) -> u128 {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut number = [0; 16];
    number.copy_from_slice(&context.finish().as_ref()[..16]);
    u128::from_be_bytes(number)
}

/// The longest line that is read.
pub(super) fn longest_line(config: &Config) -> usize {
    config.server.max_body.saturating_add(AROUND_BODY_BYTES)
}

/// Judges lines, of which it has seen all that came before.
pub(super) struct Checker<'a> {
    config: &'a Config,
    /// The number of the line that has this `custom_id`.
    names: HashMap<u128, u64>,
    /// Whether a model is served at an endpoint.
    served: BTreeMap<(Endpoint, Option<String>), bool>,
}

/// A line and its key, or why it cannot be asked; the key is made up then.
pub(super) type Checked = (Key, Result<BatchLine, LineFault>);

impl<'a> Checker<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        Self { config, names: HashMap::new(), served: BTreeMap::new() }
    }

    pub(super) fn check(&mut self, line: &Line) -> Checked {
        match self.judge(line) {
            Ok((key, asked)) => (key, Ok(asked)),
            Err(fault) => {
                let id = number_of_fault(line);
                (Key { name: id, id }, Err(fault))
            }
        }
    }

    fn judge(&mut self, line: &Line) -> Result<(Key, BatchLine), LineFault> {
        let max = self.config.server.max_body.min(self.config.queue.max_bytes);
        let too_large = || {
            let message = format!("The body is larger than {max} bytes ([server] max_body, [queue] max_bytes).");
            LineFault::new("body_too_large", message, Some("body"))
        };
        let asked = BatchLine::read(line.bytes.as_ref().ok_or_else(too_large)?)?;
        let named = |fault: LineFault| LineFault { custom_id: Some(asked.custom_id.clone()), ..fault };
        if asked.request.body().bytes().len() > max {
            return Err(named(too_large()));
        }
        let key = Key::of(&asked);
        let first = *self.names.entry(key.name).or_insert(line.number);
        if first != line.number {
            return Err(LineFault::duplicate(&asked.custom_id, first));
        }
        if !self.is_served(&asked.request) {
            return Err(named(unserved(&asked.request)));
        }
        Ok((key, asked))
    }

    fn is_served(&mut self, request: &Request) -> bool {
        let asked = (request.endpoint(), request.model().map(str::to_owned));
        if let Some(served) = self.served.get(&asked) {
            return *served;
        }
        let takes =
            |name: &str| self.config.upstreams.get(name).is_some_and(|up| speaks(up.upstream.kind, request.endpoint()));
        let served = match request.model() {
            Some(model) => self.config.targets(model).iter().any(|(upstream, _)| takes(upstream)),
            None => self.config.upstreams.keys().any(|upstream| takes(upstream)),
        };
        self.served.insert(asked, served);
        served
    }
}

fn unserved(request: &Request) -> LineFault {
    let path = request.endpoint().path();
    let message = match request.model() {
        Some(model) => format!(
            "No upstream serves the model {model:?} at /v1{path}; `forebay check` lists who serves which model."
        ),
        None => format!("No upstream takes calls to /v1{path} that name no model."),
    };
    LineFault::new("model_not_found", message, Some("body.model"))
}

/// Why there is no plan.
#[derive(Debug)]
pub(super) enum Refused {
    /// IN cannot be read.
    Unreadable(io::Error),
    /// Lines cannot be asked: a sentence for each of the first of them, and one for the others.
    Lines(Vec<String>),
}

/// Reads all of IN and gives the key of each line, in order.
///
/// # Errors
/// Whatever line cannot be asked; nothing has been asked then.
pub(super) fn read(
    lines: impl Iterator<Item = io::Result<Line>>,
    config: &Config,
    name: &str,
) -> Result<Vec<Key>, Refused> {
    let mut checker = Checker::new(config);
    let (mut keys, mut problems) = (Vec::new(), Problems::default());
    for line in lines {
        let line = line.map_err(Refused::Unreadable)?;
        match checker.check(&line) {
            (key, Ok(_)) => keys.push(key),
            (_, Err(fault)) => problems.add(line.number, fault),
        }
    }
    if problems.is_empty() { Ok(keys) } else { Err(Refused::Lines(problems.say(name))) }
}

/// What is wrong with IN. What many lines have in common is said once.
#[derive(Default)]
struct Problems {
    shown: Vec<(u64, LineFault)>,
    /// By message: how many more lines nobody serves.
    alike: HashMap<String, u64>,
    more: u64,
}

impl Problems {
    fn add(&mut self, line: u64, fault: LineFault) {
        if fault.code == "model_not_found" {
            if let Some(more) = self.alike.get_mut(&fault.message) {
                *more += 1;
                return;
            }
            if self.shown.len() < SHOWN_MAX {
                self.alike.insert(fault.message.clone(), 0);
            }
        }
        if self.shown.len() < SHOWN_MAX {
            self.shown.push((line, fault));
        } else {
            self.more += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    fn say(&self, name: &str) -> Vec<String> {
        let lines = self.shown.iter().map(|(line, LineFault { code, message, .. })| {
            let alike = self.alike.get(message).filter(|more| *more > &0 && *code == "model_not_found");
            let more = alike.map(|more| format!(" (further lines: {more})")).unwrap_or_default();
            format!("{name}:{line}: {message}{more}")
        });
        let rest = (self.more > 0).then(|| format!("{name}: further lines with problems: {}", self.more));
        lines.chain(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::Lines;
    use super::*;

    fn config() -> Config {
        let text = r#"
            [server]
            max_body = "1KiB"
            [upstreams.up]
            base_url = "http://127.0.0.1:1/v1"
            models = ["m", "n"]
            [upstreams.claude]
            kind = "anthropic"
            base_url = "http://127.0.0.1:1"
            models = ["c"]
        "#;
        Config::from_toml(text).unwrap()
    }

    fn plan(text: &str) -> Result<Vec<Key>, Vec<String>> {
        let config = config();
        read(Lines::new(text.as_bytes(), longest_line(&config)), &config, "in.jsonl").map_err(|refused| match refused {
            Refused::Lines(lines) => lines,
            Refused::Unreadable(error) => vec![error.to_string()],
        })
    }

    fn chat(id: &str, model: &str, say: &str) -> String {
        format!(
            r#"{{"custom_id":"{id}","url":"/v1/chat/completions","body":{{"model":"{model}","messages":[],"user":"{say}"}}}}"#
        )
    }

    #[test]
    fn a_line_is_known_by_its_name_and_by_all_it_asks() {
        let keys = |lines: [String; 1]| plan(&lines.join("\n")).unwrap()[0];
        let key = keys([chat("a", "m", "x")]);
        assert_eq!(keys([chat("a", "m", "x")]), key);
        assert_eq!(
            keys([format!("{{\"method\":\"POST\", {}", &chat("a", "m", "x")[1..])]),
            key,
            "what it asks is the same"
        );
        let changed = keys([chat("a", "m", "y")]);
        assert_eq!(changed.name, key.name);
        assert_ne!(changed.id, key.id);
        let renamed = keys([chat("b", "m", "x")]);
        assert!(renamed.name != key.name && renamed.id != key.id);
    }

    #[test]
    fn every_line_that_cannot_be_asked_is_named_before_anything_is_asked() {
        let large = chat("l", "m", &"x".repeat(2_000));
        let lines = [&chat("a", "m", "x"), "", "nonsense", &chat("a", "n", "y"), &chat("b", "gpt", ""), &large];
        let problems = plan(&lines.join("\n")).unwrap_err();
        let begin =
            ["in.jsonl:3: This line is not", "in.jsonl:4: The custom_id \"a\"", "in.jsonl:5: No upstream serves"];
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems.iter().zip(begin).all(|(problem, begin)| problem.starts_with(begin)), "{problems:?}");
        assert!(problems[1].contains("line 1") && problems[2].contains("\"gpt\""), "{problems:?}");
        assert!(problems[3].contains("max_body"), "{problems:?}");
    }

    #[test]
    fn a_model_that_nobody_serves_is_said_once_and_other_problems_twenty_times() {
        let unserved: Vec<_> = (0..100).map(|n| chat(&n.to_string(), "gpt", "")).collect();
        let problems = plan(&unserved.join("\n")).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].ends_with("(further lines: 99)"), "{problems:?}");
        let problems = plan(&"x\n".repeat(100)).unwrap_err();
        assert_eq!(problems.len(), 21);
        assert_eq!(problems[20], "in.jsonl: further lines with problems: 80");
    }

    #[test]
    fn an_upstream_must_take_such_calls_too() {
        let line = |url: &str, body: &str| format!(r#"{{"custom_id":"a","url":"{url}","body":{body}}}"#);
        assert!(plan(&chat("a", "c", "")).is_ok(), "chats are translated");
        assert!(plan(&line("/v1/messages", r#"{"model":"c","messages":[]}"#)).is_ok());
        assert!(plan(&line("/v1/messages", r#"{"model":"m","messages":[]}"#)).is_err());
        assert!(plan(&line("/v1/embeddings", r#"{"model":"c","input":""}"#)).is_err());
        assert!(plan(&line("/v1/moderations", r#"{"input":""}"#)).is_ok());
        assert!(plan(&line("/v1/responses", r#"{"input":"","model":"up/any"}"#)).is_ok());
    }
}
