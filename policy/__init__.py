"""What did the parties agree on and sign? Documents, signatures, history, admission.

    agreement = Agreement.parse(raw, known_roots()).require_complete()
    require_own_signature(agreement, LocalParty.load(folder))   # lists my keys, signed by me
    admission = admit(agreement.policy, verified, at=now)

To read in order: `text`, `syntax`, `sections`, `references`, `document` (what a policy may say);
`keys`, `envelope`, `party`, `agreement`, `signing`, `journal`, `state` (who agreed to it);
`statement` with `task`, `commit`, `receipt`, `record` (what is signed under it); `rows` and
`admission` (what is compared with it). Knows nothing of TLS or Flight.
"""

# `ratls.names` looks for this line: a package of the same name may take the place of this one.
OWNER = "ratls: policy"
