"""What did the parties agree on and sign? Documents, signatures, history, admission.

    agreement = Agreement.parse(raw, known_roots()).require_complete()
    agreement.require_anchor(LocalParty.load(folder))    # mine, and signed by me
    admission = admit(agreement.policy, verified, at=now)

To read in order: `text`, `syntax`, `document`, `meaning` (what a policy may say); `keys`,
`envelope`, `party`, `agreement`, `state` (who agreed to it); `statement` with `task`, `commit`,
`acknowledgement`, `receipt`, `record` (what is signed under it); `rows` and `admission` (what
is held against it). Knows nothing of TLS or Flight.
"""
