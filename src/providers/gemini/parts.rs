//! A message's `content` as Gemini's parts: text, images, audio, files.
//!
//! A file's name is a mere label and has no place in Gemini's protocol; its bytes have.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::contents::{File, Part};
use super::fields::{Fields, is_string, items};
use super::losses::{Losses, wrong};
use crate::messages::json;
use crate::providers::dialect::Untranslatable;

/// The parts of `content`: a string, or an array of parts. `at` is its path.
pub(super) fn parts<'a>(content: &'a RawValue, at: &str, losses: Losses<'_>) -> Result<Vec<Part<'a>>, Untranslatable> {
    if is_string(content) {
        return Ok(vec![Part::text(content)]);
    }
    let Some(list) = items(content) else {
        return Err(wrong(at, "must be a string or an array of parts"));
    };
    let mut parts = Vec::with_capacity(list.len());
    for (n, raw) in list.into_iter().enumerate() {
        parts.extend(part(raw, &format!("{at}[{n}]"), losses)?);
    }
    Ok(parts)
}

/// The strings of a `content` that can be text only.
pub(super) fn texts<'a>(
    content: &'a RawValue,
    at: &str,
    losses: Losses<'_>,
) -> Result<Vec<Cow<'a, RawValue>>, Untranslatable> {
    let mut texts = Vec::new();
    for (n, part) in parts(content, at, losses)?.into_iter().enumerate() {
        match part.text {
            Some(text) => texts.push(text),
            None => losses.lose(format!("{at}[{n}]"), "only text can stand there")?,
        }
    }
    Ok(texts)
}

/// One part; `None` when it may be dropped.
fn part<'a>(raw: &'a RawValue, at: &str, losses: Losses<'_>) -> Result<Option<Part<'a>>, Untranslatable> {
    let Some(fields) = Fields::of(raw) else {
        return Err(wrong(at, "must be an object"));
    };
    let kind = fields.get("type").and_then(json::string).unwrap_or_default();
    let field = match &*kind {
        "text" | "refusal" | "image_url" | "input_audio" | "file" => &*kind,
        _ => return losses.lose(at, "parts of this type have no counterpart").map(|()| None),
    };
    for (name, value) in fields.iter().filter(|(name, _)| *name != "type" && *name != field) {
        losses.lose_unknown(format!("{at}.{name}"), value)?;
    }
    let at = format!("{at}.{field}");
    let Some(value) = fields.get(field) else {
        return Err(wrong(at, "is missing"));
    };
    match field {
        "image_url" => image(value, &at, losses),
        "input_audio" => audio(value, &at, losses).map(Some),
        "file" => file(value, &at, losses),
        _ if is_string(value) => Ok(Some(Part::text(value))),
        _ => Err(wrong(at, "must be a string")),
    }
}

fn image<'a>(raw: &'a RawValue, at: &str, losses: Losses<'_>) -> Result<Option<Part<'a>>, Untranslatable> {
    let fields = Fields::of(raw).ok_or_else(|| wrong(at, "must be an object with a `url`"))?;
    for (name, value) in fields.iter().filter(|(name, _)| *name != "url") {
        if !(name == "detail" && value.get() == "\"auto\"") {
            losses.lose_unknown(format!("{at}.{name}"), value)?;
        }
    }
    let at = format!("{at}.url");
    let url = fields.get("url").filter(|url| is_string(url)).ok_or_else(|| wrong(&*at, "must be a string"))?;
    let text = json::string(url).ok_or_else(|| wrong(&*at, "must be whole Unicode characters"))?;
    if let Some((mime_type, data)) = data_url(&text) {
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

fn audio<'a>(raw: &'a RawValue, at: &str, losses: Losses<'_>) -> Result<Part<'a>, Untranslatable> {
    let fields = Fields::of(raw).ok_or_else(|| wrong(at, "must be an object"))?;
    for (name, value) in fields.iter().filter(|(name, _)| !matches!(*name, "data" | "format")) {
        losses.lose_unknown(format!("{at}.{name}"), value)?;
    }
    let string = |name: &str| {
        let found = fields.get(name).and_then(json::string);
        found.ok_or_else(|| wrong(format!("{at}.{name}"), "must be a string"))
    };
    Ok(Part::blob(format!("audio/{}", string("format")?), string("data")?))
}

fn file<'a>(raw: &'a RawValue, at: &str, losses: Losses<'_>) -> Result<Option<Part<'a>>, Untranslatable> {
    let fields = Fields::of(raw).ok_or_else(|| wrong(at, "must be an object"))?;
    for (name, value) in fields.iter().filter(|(name, _)| !matches!(*name, "file_data" | "file_id" | "filename")) {
        losses.lose_unknown(format!("{at}.{name}"), value)?;
    }
    if fields.get("file_id").is_some() {
        return losses.lose(format!("{at}.file_id"), "files uploaded elsewhere are unknown to it").map(|()| None);
    }
    let at = format!("{at}.file_data");
    let data = fields.get("file_data").and_then(json::string).ok_or_else(|| wrong(&*at, "must be a string"))?;
    let (mime_type, data) = data_url(&data).ok_or_else(|| wrong(&*at, "must be a data URL in base64"))?;
    Ok(Some(Part::blob(mime_type, data)))
}

/// The media type and the base64 of a data URL; `None` when it is none, or not in base64.
fn data_url<'a>(url: &Cow<'a, str>) -> Option<(Cow<'a, str>, Cow<'a, str>)> {
    let is_data = url.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("data:"));
    let comma = url.find(',').filter(|_| is_data)?;
    let head = &url[5..comma];
    let head = head
        .len()
        .checked_sub(7)
        .filter(|at| head.get(*at..).is_some_and(|end| end.eq_ignore_ascii_case(";base64")))?;
    // Parameters of the type (a character set) are of no use to bytes.
    let kind = url[5..5 + head].split(';').next().unwrap_or_default().len();
    if kind == 0 {
        return None;
    }
    let slice = |from: usize, to: usize| match url {
        Cow::Borrowed(url) => Cow::Borrowed(&url[from..to]),
        Cow::Owned(url) => Cow::Owned(url[from..to].to_owned()),
    };
    Some((slice(5, 5 + kind), slice(comma + 1, url.len())))
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
    fn data_urls_are_taken_apart() {
        for (url, expected) in [
            ("data:image/png;base64,AAAA", Some(("image/png", "AAAA"))),
            ("DATA:image/png;charset=x;BASE64,AA==", Some(("image/png", "AA=="))),
            ("data:image/png;base64,", Some(("image/png", ""))),
            ("data:image/png,AAAA", None),
            ("data:;base64,AAAA", None),
            ("data:base64,AAAA", None),
            ("data:é;base64,x", Some(("é", "x"))),
            ("https://x/a.png", None),
            ("data", None),
            ("", None),
        ] {
            for url in [Cow::Borrowed(url), Cow::Owned(url.to_owned())] {
                let found = data_url(&url);
                assert_eq!(found.as_ref().map(|(kind, data)| (&**kind, &**data)), expected, "{url}");
            }
        }
    }

    #[test]
    fn an_address_may_say_its_media_type() {
        assert_eq!(mime_type_of("https://x/A.JPG?y=.png"), Some("image/jpeg"));
        assert_eq!(mime_type_of("https://x/png"), None);
    }
}
