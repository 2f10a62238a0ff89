"""Questions for corpora that have only answers: captions and transcripts of text in images, in two languages.

Which one a record gets is a draw of its key, so that it never changes with the file's order. Many records share a
question word for word; that is wanted, because speech is synthesised once for each text.
"""

from tarsia.builders.corpora import At
from tarsia.schemas.identity import CIRCLE, draw_of, redraw

TEMPLATES: dict[tuple[str, str], tuple[str, ...]] = {
    ("describe-image", "en"): (
        "What can you see in this picture?",
        "Please describe this image.",
        "Tell me in a sentence what is shown here.",
        "What is going on in this photo?",
        "Give a short description of the image.",
        "How would you caption this picture?",
        "Look at the image and say what it shows.",
        "Could you tell me what is in this photo?",
        "Sum up the content of this picture briefly.",
    ),
    ("describe-image", "zh"): (
        "这张图片里有什么？",
        "请描述一下这张图片。",
        "用一句话说说图中的内容。",
        "照片里正在发生什么？",
        "请简单介绍一下画面的内容。",
        "如果给这张图配一句说明，你会怎么写？",
        "看看这张图，告诉我你看到了什么。",
        "能讲讲这张照片拍的是什么吗？",
        "请概括一下图片的主要内容。",
    ),
    ("describe-video", "en"): (
        "What happens in this video?",
        "Please describe this clip.",
        "Tell me briefly what the video shows.",
        "What can be seen in this clip?",
        "Give a short account of the video.",
        "Watch the video and say what it is about.",
        "How would you caption this clip?",
        "Could you sum up what happens here?",
        "Describe the scene in this video.",
    ),
    ("describe-video", "zh"): (
        "这段视频里发生了什么？",
        "请描述一下这段视频。",
        "简单说说视频的内容。",
        "视频里能看到什么？",
        "请用几句话介绍这段视频。",
        "看完这段视频，告诉我它讲了什么。",
        "给这段视频写一句说明吧。",
        "能概括一下视频里的情景吗？",
        "视频里的人或物在做什么？",
    ),
    ("read-text", "en"): (
        "Read all the text in this image.",
        "What does the text in the picture say?",
        "Please write down every word you can see.",
        "Transcribe the text shown here.",
        "Which words are written in this image?",
        "Copy out the text of this picture in reading order.",
        "Can you read what is written here?",
        "Extract the text from the image.",
        "Give me the full text that appears in this picture.",
    ),
    ("read-text", "zh"): (
        "读出这张图片里的所有文字。",
        "图中写了什么？",
        "请把你看到的文字都写下来。",
        "请转写图片上的文字。",
        "这张图里有哪些字？",
        "按阅读顺序抄录图中的文字。",
        "能读一下上面写的内容吗？",
        "请提取图片中的文字。",
        "把画面里出现的文字完整地告诉我。",
    ),
}


def choose(name: str, language: str, at: At) -> str:
    """One of the questions of that name and language, by the draw of the record's key."""
    questions = TEMPLATES[name, language]
    return questions[redraw(draw_of(at.key), "template") * len(questions) // CIRCLE]
