"""Speed and agreement: our attacks against public libraries, our training steps against the passes they need."""
