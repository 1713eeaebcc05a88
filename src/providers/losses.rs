//! What a translation cannot say: an error that names the field, or, with the caller's leave, nothing.

use std::fmt;

use serde_json::value::RawValue;

use super::dialect::Untranslatable;
use super::fields::{Fields, Path};
use crate::messages::{Droppable, without_indices};

/// A field's name longer than this is not repeated.
const MAX_NAME: usize = 64;

/// Judges what has no words in an upstream's protocol, by what the caller can do without.
#[derive(Clone, Copy)]
pub(super) struct Losses<'a> {
    droppable: &'a Droppable,
    /// Whose protocol it is.
    whose: &'static str,
    forgives_blanks: bool,
}

/// A field that has no words in a protocol: its name, the values that say nothing, and why.
pub(super) type Unsaid = (&'static str, &'static [&'static str], &'static str);

impl<'a> Losses<'a> {
    pub(super) fn new(droppable: &'a Droppable, whose: &'static str) -> Self {
        Self { droppable, whose, forgives_blanks: false }
    }

    /// An empty string, array or object in a field that the protocol does not know is then no loss, as `null` is none.
    pub(super) fn forgiving_blanks(self) -> Self {
        Self { forgives_blanks: true, ..self }
    }

    /// What stands at `path` cannot be said. Goes on without it where the caller has allowed that.
    pub(super) fn lose(&self, path: Path<'_>, why: impl fmt::Display) -> Result<(), Untranslatable> {
        let field = path.to_string();
        if self.droppable.covers(&field) {
            return Ok(());
        }
        let name = without_indices(&field);
        let message = format!(
            "`{field}` cannot be said to {}: {why}. Leave it out, or allow that with the header `x-forebay-drop: {name}`.",
            self.whose
        );
        Err(Untranslatable { field, message })
    }

    /// Of a request's own `fields`, those that have no words in the protocol.
    pub(super) fn lose_all(&self, fields: &mut Fields<'_>, unsaid: &[Unsaid]) -> Result<(), Untranslatable> {
        for (name, silent, why) in unsaid {
            fields.skip(name, silent);
            if fields.take(name).is_some() {
                self.lose(Path::Root.field(name), why)?;
            }
        }
        Ok(())
    }

    /// What is left of an object: fields that the protocol does not know.
    pub(super) fn lose_rest(&self, fields: Fields<'_>, path: Path<'_>) -> Result<(), Untranslatable> {
        let fields = if self.forgives_blanks { fields.without_blanks() } else { fields };
        for (name, _) in fields.rest() {
            self.lose(path.field(shown(&name)), "it knows no such field")?;
        }
        Ok(())
    }
}

/// What stands at `path` is not what it must be, which no leave mends.
pub(super) fn wrong(path: Path<'_>, must: impl fmt::Display) -> Untranslatable {
    let field = path.to_string();
    let message = format!("`{field}` must be {must}.");
    Untranslatable { field, message }
}

/// The fields of the object that `value`, at `path`, must be.
pub(super) fn object<'a>(value: &'a RawValue, path: Path<'_>) -> Result<Fields<'a>, Untranslatable> {
    Fields::read(value.get()).ok_or_else(|| wrong(path, "an object"))
}

/// The items of the array that `value`, at `path`, must be.
pub(super) fn array<'a>(value: &'a RawValue, path: Path<'_>) -> Result<Vec<&'a RawValue>, Untranslatable> {
    super::fields::items(value).ok_or_else(|| wrong(path, "an array"))
}

/// `value`, which must be a string.
pub(super) fn string<'a>(value: Option<&'a RawValue>, path: Path<'_>) -> Result<&'a RawValue, Untranslatable> {
    value.filter(|value| super::fields::is_string(value)).ok_or_else(|| wrong(path, "a string"))
}

/// A name of the caller's own making as it may stand in an error.
fn shown(name: &str) -> &str {
    if name.len() <= MAX_NAME && name.bytes().all(|byte| byte.is_ascii_graphic()) { name } else { "(unnamed)" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_names_the_field_and_the_way_out() {
        let none = Droppable::default();
        let (messages, second);
        messages = Path::Root.field("messages");
        second = messages.item(2);
        let loss = Losses::new(&none, "X's API").lose(second.field("name"), "it has no names").unwrap_err();
        assert_eq!(loss.field, "messages[2].name");
        assert!(loss.message.contains("X's API") && loss.message.contains("x-forebay-drop: messages.name"));
        let some = Droppable::parse("messages.name").unwrap();
        assert!(Losses::new(&some, "X's API").lose(second.field("name"), "").is_ok());
    }

    #[test]
    fn unknown_fields_are_lost_by_name_unless_the_name_is_unfit_to_be_shown() {
        let none = Droppable::default();
        let lose = |text: &str| Losses::new(&none, "X").lose_rest(Fields::read(text).unwrap(), Path::Root);
        assert_eq!(lose(r#"{"new":1}"#).unwrap_err().field, "new");
        assert_eq!(lose(r#"{"a b":1}"#).unwrap_err().field, "(unnamed)");
        assert!(lose(r#"{"new":null}"#).is_ok() && lose(r#"{"new":""}"#).is_err());
        let forgiving = Losses::new(&none, "X").forgiving_blanks();
        let lose = |text: &str| forgiving.lose_rest(Fields::read(text).unwrap(), Path::Root);
        assert!(lose(r#"{"new":"","b":[],"c":{ }}"#).is_ok() && lose(r#"{"new":0}"#).is_err());
    }
}
