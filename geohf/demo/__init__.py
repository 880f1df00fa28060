"""A model in a browser (`geohf demo MODEL`, extra `demo`): photos in, what the task answers out.

    app.py       the Gradio page
    uploads.py   what strangers send: bytes within limits, or a message
    answers.py   the answers of each task as HTML
    space.py     the same page as a Space of the Hub

Nothing here imports gradio before a page is made.
"""
