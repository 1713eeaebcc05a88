//! A message's `content` as Gemini's parts: text, images, audio, files.
//!
//! A file's name is a mere label and has no place in Gemini's protocol; its bytes have.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::contents::{File, Part};
use crate::messages::json;
use crate::providers::data_url;
use crate::providers::dialect::Untranslatable;
use crate::providers::fields::{Path, is_string, items};
use crate::providers::losses::{self, Losses, wrong};

/// The parts of `content`, which stands at `at` and must be a string, or an array of parts.
pub(super) fn parts<'a>(
    content: Option<&'a RawValue>,
    at: Path<'_>,
    losses: Losses<'_>,
) -> Result<Vec<Part<'a>>, Untranslatable> {
    if let Some(text) = content.filter(|content| is_string(content)) {
        return Ok(vec![Part::text(text)]);
    }
    let list = content.and_then(items).ok_or_else(|| wrong(at, "a string or an array of parts"))?;
    let mut parts = Vec::with_capacity(list.len());
    for (n, part) in list.into_iter().enumerate() {
        parts.extend(self::part(part, at.item(n), losses)?);
    }
    Ok(parts)
}

/// The strings of a `content` that can be text only.
pub(super) fn texts<'a>(
    content: Option<&'a RawValue>,
    at: Path<'_>,
    losses: Losses<'_>,
) -> Result<Vec<Cow<'a, RawValue>>, Untranslatable> {
    let mut texts = Vec::new();
    for (n, part) in parts(content, at, losses)?.into_iter().enumerate() {
        match part.text {
            Some(text) => texts.push(text),
            None => losses.lose(at.item(n), "only text can stand there")?,
        }
    }
    Ok(texts)
}

/// One part; `None` when it may be dropped.
fn part<'a>(part: &'a RawValue, at: Path<'_>, losses: Losses<'_>) -> Result<Option<Part<'a>>, Untranslatable> {
    let mut fields = losses::object(part, at)?;
    let kind = fields.take("type").and_then(json::string).unwrap_or_default();
    let field = match &*kind {
        "text" | "refusal" | "image_url" | "input_audio" | "file" => &*kind,
        _ => return losses.lose(at, "parts of this type have no counterpart").map(|()| None),
    };
    let value = fields.take(field);
    losses.lose_rest(fields, at)?;
    let at = at.field(field);
    let value = value.ok_or_else(|| wrong(at, "given"))?;
    match field {
        "image_url" => image(value, at, losses),
        "input_audio" => audio(value, at, losses).map(Some),
        "file" => file(value, at, losses),
        _ => losses::string(Some(value), at).map(|text| Some(Part::text(text))),
    }
}

fn image<'a>(image: &'a RawValue, at: Path<'_>, losses: Losses<'_>) -> Result<Option<Part<'a>>, Untranslatable> {
    let mut fields = losses::object(image, at)?;
    let url = fields.take("url");
    fields.skip("detail", &["\"auto\""]);
    losses.lose_rest(fields, at)?;
    let at = at.field("url");
    let url = losses::string(url, at)?;
    let text = json::string(url).ok_or_else(|| wrong(at, "whole Unicode characters"))?;
    if let Some((mime_type, data)) = bytes_in(&text) {
        return Ok(Some(Part::blob(mime_type, data)));
    }
    let scheme = text.split("://").next().unwrap_or_default().to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https" | "gs") {
        let why = "it takes data URLs in base64, and addresses that begin with https://, http:// or gs://";
        return losses.lose(at, why).map(|()| None);
    }
    let file = File { mime_type: mime_type_of(&text), file_uri: url };
    Ok(Some(Part { file_data: Some(file), ..Part::default() }))
}

fn audio<'a>(audio: &'a RawValue, at: Path<'_>, losses: Losses<'_>) -> Result<Part<'a>, Untranslatable> {
    let mut fields = losses::object(audio, at)?;
    let (format, data) = (fields.take("format"), fields.take("data"));
    losses.lose_rest(fields, at)?;
    let string = |value: Option<&'a RawValue>, name| {
        value.and_then(json::string).ok_or_else(|| wrong(at.field(name), "a string"))
    };
    Ok(Part::blob(format!("audio/{}", string(format, "format")?), string(data, "data")?))
}

fn file<'a>(file: &'a RawValue, at: Path<'_>, losses: Losses<'_>) -> Result<Option<Part<'a>>, Untranslatable> {
    let mut fields = losses::object(file, at)?;
    let (data, id, _) = (fields.take("file_data"), fields.take("file_id"), fields.take("filename"));
    losses.lose_rest(fields, at)?;
    if id.is_some() {
        return losses.lose(at.field("file_id"), "files uploaded elsewhere are unknown to it").map(|()| None);
    }
    let at = at.field("file_data");
    let data = data.and_then(json::string).ok_or_else(|| wrong(at, "a string"))?;
    let (mime_type, data) = bytes_in(&data).ok_or_else(|| wrong(at, "a data URL in base64"))?;
    Ok(Some(Part::blob(mime_type, data)))
}

/// The media type and the base64 of a data URL that names its type.
fn bytes_in<'a>(url: &Cow<'a, str>) -> Option<(Cow<'a, str>, Cow<'a, str>)> {
    data_url::in_base64(url).filter(|(mime_type, _)| !mime_type.is_empty())
}

/// The media type that an address ends in, where it says so: Google asks the server otherwise.
fn mime_type_of(url: &str) -> Option<&'static str> {
    const ENDINGS: [(&str, &str); 9] = [
        (".png", "image/png"),
        (".jpg", "image/jpeg"),
        (".jpeg", "image/jpeg"),
        (".webp", "image/webp"),
        (".gif", "image/gif"),
        (".heic", "image/heic"),
        (".heif", "image/heif"),
        (".avif", "image/avif"),
        (".bmp", "image/bmp"),
    ];
    let path = url.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    ENDINGS.iter().find(|(ending, _)| path.ends_with(ending)).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_say_its_media_type() {
        assert_eq!(mime_type_of("https://x/A.JPG?y=.png"), Some("image/jpeg"));
        assert_eq!(mime_type_of("https://x/png"), None);
    }
}
