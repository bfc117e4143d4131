//! Base64 (RFC 4648, section 4), as Secrets and kubeconfigs carry bytes.

/// Encodes with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let quad = |chunk: &[u8]| {
        let word =
            chunk.iter().chain(&[0; 3]).take(3).fold(0usize, |word, byte| word << 8 | usize::from(*byte));
        let digit = move |at: usize| char::from(DIGITS[word >> (18 - 6 * at) & 63]);
        let kept = chunk.len() + 1;
        (0..4).map(move |at| if at < kept { digit(at) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(quad).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_the_rfc() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
