//! Parts of messages as content blocks: text, images, documents.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::messages::json;
use crate::providers::data_url;
use crate::providers::dialect::Untranslatable;
use crate::providers::fields::{self, Fields, Path};
use crate::providers::losses::{self, Losses, wrong};

/// A piece of JSON as it is to stand.
pub(super) type Raw<'a> = Cow<'a, RawValue>;

/// A content block.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block<'a> {
    Text {
        text: Raw<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    },
    Image {
        source: Source<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    },
    Document {
        source: Source<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    },
    ToolUse {
        id: &'a RawValue,
        name: &'a RawValue,
        input: Raw<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    },
    ToolResult {
        tool_use_id: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<Content<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    },
    /// A block of Anthropic's own that a client gives back, such as the thinking behind a tool call.
    #[serde(untagged)]
    AsItCame(&'a RawValue),
}

impl<'a> Block<'a> {
    pub(super) fn text(text: &'a RawValue) -> Self {
        Self::Text { text: Cow::Borrowed(text), cache_control: None }
    }

    /// Whether it is text of no character, which the API refuses.
    pub(super) fn is_blank(&self) -> bool {
        matches!(self, Self::Text { text, .. } if text.get() == "\"\"")
    }

    pub(super) fn is_tool_result(&self) -> bool {
        matches!(self, Self::ToolResult { .. })
    }

    /// Where it marks the end of what may be cached, if it can.
    pub(super) fn cache_control(&mut self) -> Option<&mut Option<&'a RawValue>> {
        match self {
            Self::Text { cache_control, .. }
            | Self::Image { cache_control, .. }
            | Self::Document { cache_control, .. }
            | Self::ToolUse { cache_control, .. }
            | Self::ToolResult { cache_control, .. } => Some(cache_control),
            Self::AsItCame(_) => None,
        }
    }
}

/// Where an image or a document comes from.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Source<'a> {
    Base64 { media_type: String, data: Cow<'a, str> },
    Url { url: Cow<'a, str> },
}

/// All of a turn, a tool's result, or the system prompt.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Content<'a> {
    /// Short for one block of mere text.
    Text(Raw<'a>),
    Blocks(Vec<Block<'a>>),
}

impl<'a> From<Vec<Block<'a>>> for Content<'a> {
    fn from(mut blocks: Vec<Block<'a>>) -> Self {
        if let [Block::Text { text, cache_control: None }] = &mut blocks[..] {
            return Self::Text(std::mem::replace(text, Cow::Borrowed(RawValue::NULL)));
        }
        Self::Blocks(blocks)
    }
}

/// The blocks of a message's `content` at `path`: a string, an array of parts, or nothing.
pub(super) fn blocks<'a>(
    content: Option<&'a RawValue>,
    path: Path<'_>,
    losses: Losses<'_>,
) -> Result<Vec<Block<'a>>, Untranslatable> {
    let Some(content) = content else { return Ok(Vec::new()) };
    if fields::is_string(content) {
        return Ok(vec![Block::text(content)]);
    }
    let parts = fields::items(content).ok_or_else(|| wrong(path, "a string or an array of parts"))?;
    let mut blocks = Vec::with_capacity(parts.len());
    for (index, part) in parts.into_iter().enumerate() {
        blocks.extend(block(part, path.item(index), losses)?);
    }
    Ok(blocks)
}

/// The block of one part; none when it is dropped.
fn block<'a>(part: &'a RawValue, path: Path<'_>, losses: Losses<'_>) -> Result<Option<Block<'a>>, Untranslatable> {
    let mut part = losses::object(part, path)?;
    let kind = part.take("type").and_then(json::string).ok_or_else(|| wrong(path.field("type"), "a string"))?;
    let cache_control = part.take("cache_control");
    let block = match &*kind {
        "text" => {
            let text = losses::string(part.take("text"), path.field("text"))?;
            Some(Block::Text { text: Cow::Borrowed(text), cache_control })
        }
        // What a model has refused with: text that it said.
        "refusal" => {
            let text = losses::string(part.take("refusal"), path.field("refusal"))?;
            Some(Block::Text { text: Cow::Borrowed(text), cache_control })
        }
        "image_url" => {
            let source = image(part.take("image_url"), path.field("image_url"), losses)?;
            source.map(|source| Block::Image { source, cache_control })
        }
        "file" => document(part.take("file"), path.field("file"), cache_control, losses)?,
        "input_audio" => {
            losses.lose(path, "it takes no audio")?;
            return Ok(None);
        }
        _ => {
            losses.lose(path, "it knows no such part; text, image_url and file are translated")?;
            return Ok(None);
        }
    };
    losses.lose_rest(part, path)?;
    Ok(block)
}

fn image<'a>(
    image: Option<&'a RawValue>,
    path: Path<'_>,
    losses: Losses<'_>,
) -> Result<Option<Source<'a>>, Untranslatable> {
    let image = image.ok_or_else(|| wrong(path, "an object with a url"))?;
    // A bare string is what many clients send, and servers take.
    let mut fields = Fields::read(image.get());
    let url = fields.as_mut().map_or(Some(image), |fields| fields.take("url"));
    let url = url.and_then(json::string).ok_or_else(|| wrong(path.field("url"), "a string"))?;
    if let Some(mut fields) = fields {
        // It sees every image in full.
        let detail = fields.take("detail");
        if detail.is_some_and(|detail| !fields::is_text(detail, "auto") && !fields::is_text(detail, "high")) {
            losses.lose(path.field("detail"), "it sees every image in full")?;
        }
        losses.lose_rest(fields, path)?;
    }
    if is_web(&url) {
        return Ok(Some(Source::Url { url }));
    }
    match data_url::in_base64(&url) {
        Some((media_type, data)) => {
            let media_type = media_type.to_ascii_lowercase();
            let media_type = if media_type == "image/jpg" { "image/jpeg".to_owned() } else { media_type };
            Ok(Some(Source::Base64 { media_type, data }))
        }
        None => {
            losses.lose(path.field("url"), "it takes images from http(s) and from data URLs in base64")?;
            Ok(None)
        }
    }
}

/// The one type of documents.
const PDF: &str = "application/pdf";

/// A PDF; other files have no words there.
fn document<'a>(
    file: Option<&'a RawValue>,
    path: Path<'_>,
    cache_control: Option<&'a RawValue>,
    losses: Losses<'_>,
) -> Result<Option<Block<'a>>, Untranslatable> {
    let mut file = losses::object(file.ok_or_else(|| wrong(path, "an object"))?, path)?;
    let title = file.take("filename").filter(|title| fields::is_string(title));
    let data = file.take("file_data").and_then(json::string).and_then(|url| data_url::in_base64(&url));
    let Some((_, data)) = data.filter(|(media_type, _)| media_type.eq_ignore_ascii_case(PDF)) else {
        losses.lose(path, "it takes PDF files as `file_data`, a data URL in base64")?;
        return Ok(None);
    };
    losses.lose_rest(file, path)?;
    Ok(Some(Block::Document { source: Source::Base64 { media_type: PDF.to_owned(), data }, title, cache_control }))
}

fn is_web(url: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}
