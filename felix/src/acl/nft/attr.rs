//! Netlink's frames and attributes: nf_tables numbers are big-endian, its headers are not.

use netlink_packet_core::{NLA_F_NESTED, NlasIterator};

/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER: usize = 16;
const NFGENMSG: usize = 4;

/// Messages being written, one behind the other.
#[derive(Clone, Debug, Default)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// One message: its type and flags, its sequence number, `nfgen_family` and `res_id`, and its attributes.
    pub fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        (family, resource): (u8, u16),
        attributes: impl FnOnce(&mut Self),
    ) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(&flags.to_ne_bytes());
        self.0.extend_from_slice(&sequence.to_ne_bytes());
        // Port 0: the kernel puts ours.
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(&[family, 0]);
        self.0.extend_from_slice(&resource.to_be_bytes());
        attributes(self);
        // Whoever fills a message keeps it far below 4 GiB: the largest, of set elements, ends at 64 KiB.
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute of octets.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
    }

    /// A number in network order.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// A number in network order.
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// A string with the zero the kernel wants behind it.
    pub fn string(&mut self, kind: u16, value: &str) {
        let length = u16::try_from(4 + value.len() + 1).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.pad();
    }

    /// An attribute of attributes.
    pub fn nest(&mut self, kind: u16, attributes: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        attributes(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// What was written.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    /// What was written.
    pub fn into_octets(self) -> Vec<u8> {
        self.0
    }

    /// Octets as they are.
    pub fn raw(&mut self, octets: &[u8]) {
        self.0.extend_from_slice(octets);
    }

    /// Octets written so far.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes back what was written behind the first octets.
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }

    /// Clears flags of the message that begins at `start`.
    pub fn clear_flags(&mut self, start: usize, flags: u16) {
        if let Some(field) = self.0.get_mut(start + 6..).and_then(<[u8]>::first_chunk_mut) {
            *field = (u16::from_ne_bytes(*field) & !flags).to_ne_bytes();
        }
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// The attributes of a message or of an attribute, as they lie there. What is cut short ends them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Those of a value.
    pub fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// Those of a whole message, with its headers.
    pub fn of_message(message: &'a [u8]) -> Self {
        Self(message.get(HEADER + NFGENMSG..).unwrap_or_default())
    }

    /// All, in order.
    pub fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        NlasIterator::new(self.0).map_while(Result::ok).map(|nla| {
            let (kind, length) = (nla.kind(), nla.value_length());
            (kind, &nla.into_inner()[4..4 + length])
        })
    }

    /// The first of a kind.
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// A nested one; empty where there is none.
    pub fn nested(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }

    /// An octet.
    pub fn byte(self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    /// A 16-bit number in network order.
    pub fn be16(self, kind: u16) -> Option<u16> {
        self.get(kind)?.first_chunk().map(|value| u16::from_be_bytes(*value))
    }

    /// A 32-bit number in network order.
    pub fn be32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.first_chunk().map(|value| u32::from_be_bytes(*value))
    }

    /// A 64-bit number in network order.
    pub fn be64(self, kind: u16) -> Option<u64> {
        self.get(kind)?.first_chunk().map(|value| u64::from_be_bytes(*value))
    }

    /// A string, without the zero.
    pub fn string(self, kind: u16) -> Option<&'a str> {
        let octets = self.get(kind)?;
        std::str::from_utf8(octets.strip_suffix(&[0]).unwrap_or(octets)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut frame = Frame::default();
        frame.message(0x0a06, 5, 7, (1, 10), |frame| {
            frame.string(1, "manx");
            frame.nest(4, |frame| {
                frame.be32(2, 77);
                frame.be64(3, 1 << 40);
                frame.put(5, &[1, 2, 3]);
            });
        });
        assert_eq!(frame.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes(*frame.octets().first_chunk().unwrap()) as usize, frame.len());
        let attributes = Attributes::of_message(frame.octets());
        assert_eq!(attributes.string(1), Some("manx"));
        let nested = attributes.nested(4);
        assert_eq!(
            (nested.be32(2), nested.be64(3), nested.get(5)),
            (Some(77), Some(1 << 40), Some(&[1, 2, 3][..]))
        );
        assert_eq!(attributes.nested(9).be32(1), None);
    }

    #[test]
    fn what_is_cut_short_ends_the_attributes() {
        let mut frame = Frame::default();
        frame.be32(1, 1);
        frame.be32(2, 2);
        for length in 0..frame.len() {
            let cut = Attributes::new(&frame.octets()[..length]);
            assert_eq!(cut.be32(1).is_some(), length >= 8, "{length}");
            assert_eq!(cut.be32(2), None, "{length}");
        }
    }
}
