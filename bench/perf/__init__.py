"""Our attacks beside public libraries', our training steps beside the passes they need; jobs at once; memory."""
