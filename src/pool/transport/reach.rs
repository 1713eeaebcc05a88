//! Which addresses a request may reach: any that the operator has configured; only public ones where a caller has named
//! the URL, who must not look at what stands behind this machine's firewall with this machine's eyes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who has chosen where a request goes. That decides what it may reach, and whether its connection is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ChosenBy {
    /// The operator, in the configuration: any address, over connections that are kept.
    Operator,
    /// A caller, as with a webhook: public addresses only, over a connection of its own.
    Caller,
    /// A caller, where the operator lets callers reach private addresses too (`[jobs] webhook_allow_private`).
    TrustedCaller,
}

impl ChosenBy {
    /// Whether a connection may be made to `address`. To be asked of the very address that is connected to: what a name
    /// led to a moment ago says nothing.
    pub fn may_reach(self, address: IpAddr) -> bool {
        self != Self::Caller || is_public(address)
    }
}

/// Whether `address` is one of the public Internet's, by IANA's registries of special purposes.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match carried_by(v6) {
            Some(v4) => is_public_v4(v4),
            None => is_public_v6(v6),
        },
    }
}

/// Networks of IPv4 that are not public.
const SPECIAL_V4: [(Ipv4Addr, u32); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),        // this network; 0.0.0.0 connects to this machine
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),    // carrier-grade NAT; metadata of Alibaba's cloud
    (Ipv4Addr::new(127, 0, 0, 0), 8),      // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure's own platform, inside each of its machines
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local; metadata of most clouds
    (Ipv4Addr::new(172, 16, 0, 0), 12),    // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),     // protocol assignments; metadata of Oracle's cloud
    (Ipv4Addr::new(192, 0, 2, 0), 24),     // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),   // relays of 6to4
    (Ipv4Addr::new(192, 168, 0, 0), 16),   // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24),  // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),   // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),      // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),      // reserved, and broadcast
];

/// What alone is public of IPv6. Everything else is left out by it: unspecified and loopback, IPv4-compatible, local NAT64
/// (64:ff9b:1::/48), discard, unique local (metadata of Amazon's and Google's clouds among it), link- and site-local,
/// multicast, and what is not assigned yet.
const GLOBAL_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Networks within it that are not public.
const SPECIAL_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments: Teredo, ORCHID, benchmarks
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4: carries any IPv4 address
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let is_in = |&(network, length): &(Ipv4Addr, u32)| (address.to_bits() ^ network.to_bits()) >> (32 - length) == 0;
    !SPECIAL_V4.iter().any(is_in)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let is_in = |&(network, length): &(Ipv6Addr, u32)| (address.to_bits() ^ network.to_bits()) >> (128 - length) == 0;
    is_in(&GLOBAL_V6) && !SPECIAL_V6.iter().any(is_in)
}

/// The IPv4 address that a connection to `address` ends at: one that is mapped (::ffff:0:0/96), or behind the NAT64 that
/// networks without IPv4 have (64:ff9b::/96, where every name of an IPv4 host leads).
fn carried_by(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = address.segments();
    let is_carrier = matches!([a, b, c, d, e, f], [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0]);
    is_carrier.then(|| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn public(text: &str) -> bool {
        is_public(text.parse().unwrap_or_else(|_| panic!("{text}")))
    }

    #[test]
    fn no_special_network_of_ipv4_is_public_and_its_neighbours_are() {
        for (first, last, before, after) in [
            ("0.0.0.0", "0.255.255.255", None, Some("1.0.0.0")),
            ("10.0.0.0", "10.255.255.255", Some("9.255.255.255"), Some("11.0.0.0")),
            ("100.64.0.0", "100.127.255.255", Some("100.63.255.255"), Some("100.128.0.0")),
            ("127.0.0.0", "127.255.255.255", Some("126.255.255.255"), Some("128.0.0.0")),
            ("168.63.129.16", "168.63.129.16", Some("168.63.129.15"), Some("168.63.129.17")),
            ("169.254.0.0", "169.254.255.255", Some("169.253.255.255"), Some("169.255.0.0")),
            ("172.16.0.0", "172.31.255.255", Some("172.15.255.255"), Some("172.32.0.0")),
            ("192.0.0.0", "192.0.0.255", Some("191.255.255.255"), Some("192.0.1.0")),
            ("192.0.2.0", "192.0.2.255", Some("192.0.1.255"), Some("192.0.3.0")),
            ("192.88.99.0", "192.88.99.255", Some("192.88.98.255"), Some("192.88.100.0")),
            ("192.168.0.0", "192.168.255.255", Some("192.167.255.255"), Some("192.169.0.0")),
            ("198.18.0.0", "198.19.255.255", Some("198.17.255.255"), Some("198.20.0.0")),
            ("198.51.100.0", "198.51.100.255", Some("198.51.99.255"), Some("198.51.101.0")),
            ("203.0.113.0", "203.0.113.255", Some("203.0.112.255"), Some("203.0.114.0")),
            ("224.0.0.0", "255.255.255.255", Some("223.255.255.255"), None),
        ] {
            let (low, high): (Ipv4Addr, Ipv4Addr) = (first.parse().unwrap(), last.parse().unwrap());
            let middle = Ipv4Addr::from_bits(low.to_bits() + (high.to_bits() - low.to_bits()) / 2);
            for inside in [low, middle, high] {
                assert!(!is_public(inside.into()), "{inside}");
                assert!(!is_public(inside.to_ipv6_mapped().into()), "mapped {inside}");
                assert!(!is_public(inside.to_ipv6_compatible().into()), "compatible {inside}");
                let [a, b, c, d] = inside.octets();
                assert!(!public(&format!("64:ff9b::{a}.{b}.{c}.{d}")), "NAT64 {inside}");
                assert!(!public(&format!("2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1")), "6to4 {inside}");
            }
            for outside in [before, after].into_iter().flatten() {
                assert!(public(outside), "{outside}");
                assert!(public(&format!("::ffff:{outside}")), "mapped {outside}");
                assert!(public(&format!("64:ff9b::{outside}")), "NAT64 {outside}");
            }
        }
    }

    #[test]
    fn no_special_network_of_ipv6_is_public_and_its_neighbours_are() {
        for inside in [
            "::",
            "::1",
            "::2",
            "::8.8.8.8", // IPv4-compatible
            "::fffe:8.8.8.8",
            "::ffff:0:8.8.8.8", // IPv4-translated
            "64:ff9a:ffff::",
            "64:ff9b::1:0:0", // beyond the /96 of NAT64
            "64:ff9b:1::8.8.8.8",
            "64:ff9b:1:ffff::",
            "100::1",
            "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001::",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2", // Teredo
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "2002::",
            "2002:808:808::1",
            "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff::",
            "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
            "4000::",
            "5f00::1",
            "fc00::",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff00::",
            "ff02::1",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert!(!public(inside), "{inside}");
        }
        for outside in [
            "2000::",
            "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:200::",
            "2001:4860:4860::8888",
            "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db9::",
            "2003::",
            "2606:4700:4700::1111",
            "2a00:1450:4001:81b::200e",
            "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff:1000::",
        ] {
            assert!(public(outside), "{outside}");
        }
    }

    #[test]
    fn only_a_caller_is_kept_to_public_addresses() {
        let (private, public) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([8, 8, 8, 8]));
        for (chosen_by, private_too) in
            [(ChosenBy::Operator, true), (ChosenBy::Caller, false), (ChosenBy::TrustedCaller, true)]
        {
            assert!(chosen_by.may_reach(public));
            assert_eq!(chosen_by.may_reach(private), private_too, "{chosen_by:?}");
        }
    }

    proptest! {
        /// The standard library knows some of the networks, too.
        #[test]
        fn whatever_the_standard_library_calls_special_is_not_public(bits in any::<u32>(), wide in any::<u128>()) {
            let v4 = Ipv4Addr::from_bits(bits);
            let is_special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
            prop_assert!(!(is_special && is_public(v4.into())), "{}", v4);
            prop_assert_eq!(is_public(v4.into()), is_public(v4.to_ipv6_mapped().into()), "{}", v4);
            let v6 = Ipv6Addr::from_bits(wide);
            let is_special = v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unique_local()
                || v6.is_unicast_link_local();
            prop_assert!(!(is_special && is_public(v6.into())), "{}", v6);
        }
    }
}
