//! Bytes that stand in their address: `data:image/png;base64,…`.

use std::borrow::Cow;

/// The media type of `url`, and its data; `None` when it is no data URL, or not in base64.
pub(super) fn in_base64<'a>(url: &Cow<'a, str>) -> Option<(Cow<'a, str>, Cow<'a, str>)> {
    match url {
        Cow::Borrowed(url) => parts(url).map(|(kind, data)| (kind.into(), data.into())),
        Cow::Owned(url) => parts(url).map(|(kind, data)| (kind.to_owned().into(), data.to_owned().into())),
    }
}

fn parts(url: &str) -> Option<(&str, &str)> {
    let (head, data) = url.split_once(',')?;
    let (scheme, kind) = head.split_once(':')?;
    let (media_type, encoding) = kind.rsplit_once(';')?;
    if !scheme.eq_ignore_ascii_case("data") || !encoding.trim().eq_ignore_ascii_case("base64") {
        return None;
    }
    // Parameters of the type (a character set) are of no use to bytes.
    Some((media_type.split(';').next().unwrap_or_default().trim(), data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_urls_are_taken_apart() {
        for (url, expected) in [
            ("data:image/png;base64,AAAA", Some(("image/png", "AAAA"))),
            ("DATA:image/PNG;charset=x; BASE64,AA==", Some(("image/PNG", "AA=="))),
            ("data:image/png;base64,", Some(("image/png", ""))),
            ("data:image/png,AAAA", None),
            ("data:;base64,AAAA", Some(("", "AAAA"))),
            ("data:base64,AAAA", None),
            ("data:é;base64,x", Some(("é", "x"))),
            ("https://x/a.png", None),
            ("https://x/a;base64,b", None),
            ("data", None),
            ("", None),
        ] {
            for url in [Cow::Borrowed(url), Cow::Owned(url.to_owned())] {
                let found = in_base64(&url);
                assert_eq!(found.as_ref().map(|(kind, data)| (&**kind, &**data)), expected, "{url}");
            }
        }
    }
}
