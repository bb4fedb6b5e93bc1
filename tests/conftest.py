"""What the tests find is theirs: not what whoever started them has set up."""

import signal

# `nohup make test`: programs that are sent SIGHUP would inherit that it is ignored.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
