//! The pools and blocks this node knew last, kept beside the attachments.
//!
//! An agent that starts while the API is away still owns its blocks, and pods can still start from them: no one else
//! gives a block away while its Node is there. Like the attachments the file dies with the boot.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use manx_ipam::claim::Parent;
use manx_ipam::crd::IPPool;
use manx_ipam::pool::check_overlaps;
use manx_ipam::{BlockCidr, Pool};
use serde::{Deserialize, Serialize};

/// What is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// Pools usable on this node.
    pools: Vec<IPPool>,
    /// Blocks the API acknowledged as ours.
    pub blocks: Vec<KnownBlock>,
}

/// An own block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownBlock {
    /// Its range.
    pub cidr: BlockCidr,
    /// The IPPool it was cut from.
    pub pool: String,
    /// The block it was carved out of.
    #[serde(default)]
    pub parent: Option<Parent>,
    /// Parts of it that belong to other nodes, or will, and to which.
    #[serde(default)]
    pub parts: BTreeMap<BlockCidr, String>,
    /// Nothing was handed out of it for now.
    #[serde(default)]
    pub suspended: bool,
}

impl Known {
    /// Of these.
    pub fn new(pools: Vec<IPPool>, blocks: Vec<KnownBlock>) -> Self {
        Self { pools, blocks }
    }

    /// The pools; the check they passed once is made again.
    pub fn pools(&self) -> Vec<Pool> {
        check_overlaps(&self.pools).into_values().filter_map(Result::ok).collect()
    }
}

/// The file.
#[derive(Clone, Debug)]
pub struct KnownFile {
    path: PathBuf,
    /// What is in it, to write only what differs.
    written: Vec<u8>,
}

impl KnownFile {
    /// In the state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("known.json"), written: Vec::new() }
    }

    /// Whether an agent was here since the machine started: the directory does not outlive that.
    pub fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// Reads it; a node that has none knows nothing yet.
    ///
    /// # Errors
    /// When it is there and cannot be read or understood.
    pub fn load(&mut self) -> io::Result<Known> {
        match fs::read(&self.path) {
            Ok(text) => {
                let known = serde_json::from_slice(&text)?;
                self.written = text;
                Ok(known)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Known::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces it by rename, if it would differ.
    ///
    /// # Errors
    /// The file system's; then the old one is still there.
    pub fn save(&mut self, known: &Known) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(known)?;
        if text != self.written {
            let fresh = self.path.with_extension("new");
            fs::write(&fresh, &text)?;
            fs::rename(&fresh, &self.path)?;
            self.written = text;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use manx_ipam::crd::IPPoolSpec;

    use super::*;

    #[test]
    fn what_was_known_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        assert!(KnownFile::new(directory.path()).load().unwrap().blocks.is_empty());
        let spec = IPPoolSpec::new("10.244.0.0/16");
        let cidr = "10.244.3.64/26".parse::<manx_ipam::Cidr>().unwrap();
        let part: BlockCidr = "10.244.3.96/28".parse::<manx_ipam::Cidr>().unwrap().try_into().unwrap();
        let block = KnownBlock {
            cidr: cidr.try_into().unwrap(),
            pool: "pods".to_owned(),
            parent: None,
            parts: [(part, "node2".to_owned())].into(),
            suspended: true,
        };
        let known = Known::new(vec![IPPool::new("pods", spec)], vec![block.clone()]);
        KnownFile::new(directory.path()).save(&known).unwrap();
        let read = KnownFile::new(directory.path()).load().unwrap();
        assert_eq!(read.blocks, [block]);
        assert_eq!(read.pools()[0].name, "pods");
    }

    #[test]
    fn what_an_earlier_agent_wrote_is_read_and_fields_of_a_later_one_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let text = r#"{"pools": [{"apiVersion": "manx.io/v1alpha1", "kind": "IPPool", "metadata": {"name": "pods-v4"},
            "spec": {"cidr": "10.244.0.0/16", "later": 1}}],
            "blocks": [{"cidr": "10.244.28.192/26", "pool": "pods-v4", "later": []}], "later": {}}"#;
        std::fs::write(directory.path().join("known.json"), text).unwrap();
        let known = KnownFile::new(directory.path()).load().unwrap();
        assert_eq!((known.pools().len(), known.blocks.len()), (1, 1));
        assert!(!known.blocks[0].suspended && known.blocks[0].parts.is_empty());
    }
}
